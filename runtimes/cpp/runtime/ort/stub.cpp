// Stands in for libonnxruntime.so.1 while libseqexport is linked. ONNX Runtime's own symbol has the version of its release
// in its name (VERS_1.32.0), and what is linked with it asks for that very release; what is linked with this, for any.
extern "C" __attribute__((visibility("default"))) const void* OrtGetApiBase() { return nullptr; }
