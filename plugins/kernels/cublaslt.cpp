#include "cublaslt.h"

#include <dlfcn.h>

namespace seqexport::cublaslt {
namespace {

constexpr int kCuda = CUDART_VERSION / 1000;

// That of the CUDA which this was compiled with, or another: the interface is the same.
void* open() {
  const std::string name = "libcublasLt.so";
  for (const int major : {kCuda, 13, 12, 11}) {
    if (void* handle = dlopen((name + "." + std::to_string(major)).c_str(), RTLD_LAZY)) return handle;
  }
  return dlopen(name.c_str(), RTLD_LAZY);
}

Library load() {
  Library found = {};
  void* handle = open();
  if (!handle) {
    const std::string major = std::to_string(kCuda);
    found.fault = "no libcublasLt.so." + major + " on the library path, which computes prompts; install cuBLAS of CUDA " +
                  major + " (apt: libcublas-" + major + "-*, pip: nvidia-cublas)";
    return found;
  }
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    if (!function && found.fault.empty()) found.fault = std::string("libcublasLt has no ") + name;
  };
#define SEQEXPORT_FIND(name) find(found.name, #name)
  SEQEXPORT_FIND(cublasLtCreate);
  SEQEXPORT_FIND(cublasLtMatmulDescCreate);
  SEQEXPORT_FIND(cublasLtMatmulDescSetAttribute);
  SEQEXPORT_FIND(cublasLtMatrixLayoutCreate);
  SEQEXPORT_FIND(cublasLtMatmulDescDestroy);
  SEQEXPORT_FIND(cublasLtMatrixLayoutDestroy);
  SEQEXPORT_FIND(cublasLtMatmulPreferenceCreate);
  SEQEXPORT_FIND(cublasLtMatmulPreferenceSetAttribute);
  SEQEXPORT_FIND(cublasLtMatmulPreferenceDestroy);
  SEQEXPORT_FIND(cublasLtMatmulAlgoGetHeuristic);
  SEQEXPORT_FIND(cublasLtMatmul);
#undef SEQEXPORT_FIND
  return found;
}

}  // namespace

const Library& library() {
  static const Library* const loaded = new Library(load());
  return *loaded;
}

}  // namespace seqexport::cublaslt
