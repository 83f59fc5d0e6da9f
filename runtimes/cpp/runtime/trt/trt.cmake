target_sources(seqexport_objects PRIVATE trt/cuda.cpp trt/engine.cpp trt/executor.cpp trt/feeds.cpp trt/plan.cpp
                                         trt/record.cpp trt/states.cpp trt/transfer.cpp)
# The shared one: the other would be most of the library.
target_link_libraries(seqexport_objects PUBLIC seqexport_tensorrt CUDA::cudart)
set(rpath INSTALL_RPATH_USE_LINK_PATH ON)
