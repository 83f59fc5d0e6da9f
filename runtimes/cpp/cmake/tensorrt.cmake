# seqexport_nvinfer: TensorRT's runtime library and its headers, and CUDA's.
# TENSORRT_ROOT              where TensorRT lies, if not in the system's folders; or, where they are apart:
# TENSORRT_INCLUDE_DIR, TENSORRT_LIBRARY
# SEQEXPORT_TENSORRT_RTX=ON  links TensorRT-RTX instead (its libraries in TENSORRT_ROOT, the headers of TensorRT 11)
option(SEQEXPORT_TENSORRT_RTX "Link TensorRT-RTX" OFF)

# Before CMake 3.25, FindCUDAToolkit takes the place of a compiler outside of its toolkit for the toolkit's.
find_program(SEQEXPORT_NVCC nvcc HINTS ${CUDAToolkit_ROOT} ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
if(SEQEXPORT_NVCC AND NOT CUDAToolkit_ROOT)
  execute_process(COMMAND "${SEQEXPORT_NVCC}" --dryrun -E -x cu /dev/null ERROR_VARIABLE told OUTPUT_QUIET)
  if(told MATCHES "_HERE_=([^\n]+)")
    get_filename_component(CUDAToolkit_ROOT "${CMAKE_MATCH_1}" DIRECTORY)
  endif()
endif()
find_package(CUDAToolkit REQUIRED)

if(SEQEXPORT_TENSORRT_RTX)
  set(tensorrt_name tensorrt_rtx)
else()
  set(tensorrt_name nvinfer)
endif()
find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h HINTS ${TENSORRT_ROOT} PATH_SUFFIXES include)
find_library(TENSORRT_LIBRARY ${tensorrt_name} HINTS ${TENSORRT_ROOT} PATH_SUFFIXES lib)
foreach(needed TENSORRT_INCLUDE_DIR TENSORRT_LIBRARY)
  if(NOT ${needed})
    message(FATAL_ERROR "${needed} was not found. Needed are TensorRT's headers and lib${tensorrt_name}.so: apt install "
                        "libnvinfer-dev, or give their folder as -DTENSORRT_ROOT=FOLDER")
  endif()
endforeach()

add_library(seqexport_nvinfer INTERFACE)
target_compile_definitions(seqexport_nvinfer INTERFACE $<$<BOOL:${SEQEXPORT_TENSORRT_RTX}>:SEQEXPORT_TENSORRT_RTX>)
target_include_directories(seqexport_nvinfer SYSTEM INTERFACE ${TENSORRT_INCLUDE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
target_link_libraries(seqexport_nvinfer INTERFACE ${TENSORRT_LIBRARY} ${CMAKE_DL_LIBS})
