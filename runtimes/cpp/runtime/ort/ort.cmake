# ORT_ROOT       where ONNX Runtime lies, with include and lib, if not in the system's folders; or, where they are apart:
# ORT_INCLUDE_DIR, ORT_LIBRARY
find_path(ORT_INCLUDE_DIR onnxruntime_c_api.h HINTS ${ORT_ROOT} PATH_SUFFIXES include include/onnxruntime)
find_library(ORT_LIBRARY onnxruntime HINTS ${ORT_ROOT} PATH_SUFFIXES lib)
foreach(needed ORT_INCLUDE_DIR ORT_LIBRARY)
  if(NOT ${needed})
    message(FATAL_ERROR "${needed} was not found. Needed are onnxruntime_c_api.h and libonnxruntime.so of ONNX Runtime "
                        "1.18 or newer, from https://github.com/microsoft/onnxruntime/releases: give their folder as "
                        "-DORT_ROOT=FOLDER")
  endif()
endforeach()
target_sources(seqexport_objects PRIVATE ort/api.cpp ort/engine.cpp ort/ops_library.cpp ort/states.cpp)
target_include_directories(seqexport_objects SYSTEM PUBLIC ${ORT_INCLUDE_DIR})
add_library(seqexport_ort_stub SHARED ort/stub.cpp)
set_target_properties(seqexport_ort_stub PROPERTIES OUTPUT_NAME onnxruntime SOVERSION 1 LIBRARY_OUTPUT_DIRECTORY
                                                    "${CMAKE_CURRENT_BINARY_DIR}/stub")
add_dependencies(seqexport_objects seqexport_ort_stub)
target_link_libraries(seqexport_objects PUBLIC $<TARGET_LINKER_FILE:seqexport_ort_stub>)
get_filename_component(ort_folder "${ORT_LIBRARY}" DIRECTORY)
set(rpath BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "${ort_folder}")
