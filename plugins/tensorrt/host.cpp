#include "host.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>

namespace seqexport::tensorrt {
namespace {

#if NV_TENSORRT_MAJOR == 8
constexpr const char* kLibraries[] = {"libnvinfer.so.8", "libnvinfer_dispatch.so.8", "libnvinfer_lean.so.8"};
#elif NV_TENSORRT_MAJOR == 10
constexpr const char* kLibraries[] = {"libnvinfer.so.10", "libnvinfer_dispatch.so.10", "libnvinfer_lean.so.10"};
#else
constexpr const char* kLibraries[] = {"libnvinfer.so.11", "libnvinfer_dispatch.so.11", "libnvinfer_lean.so.11",
                                      "libtensorrt_rtx.so.1"};
#endif

std::atomic<FindLogger> registry_logger{nullptr};

struct Library {
  void* handle;
  int version;  // 8601 for 8.6.1, 100300 for 10.3.0, 10701 for TensorRT-RTX 1.7.1
};

int version_of(void* handle) {
  const auto get = reinterpret_cast<int32_t (*)()>(dlsym(handle, "getInferLibVersion"));
  return get ? get() : 0;
}

// Whether its interfaces are those of our headers: 10 and 11 changed some, and TensorRT-RTX 1.7 has those of 11.
bool has_our_interfaces(int version) {
  if (NV_TENSORRT_MAJOR == 8) return version / 1000 == 8;
  const bool is_rtx = version >= 10700 && version < 20000;
  return version / 10000 == NV_TENSORRT_MAJOR || (NV_TENSORRT_MAJOR == 11 && is_rtx);
}

// 8.6.0 has a plugin registry of its own.
bool has_our_registry(int version) { return (version == 8600) == (NV_TENSORRT_VERSION == 8600); }

// First what every library sees, then what was loaded for one alone, as Python does.
std::optional<Library> search() {
  if (has_our_interfaces(version_of(RTLD_DEFAULT))) return Library{RTLD_DEFAULT, version_of(RTLD_DEFAULT)};
  for (const char* name : kLibraries) {
    void* handle = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
    if (handle && has_our_interfaces(version_of(handle))) return Library{handle, version_of(handle)};
    if (handle) dlclose(handle);
  }
  return std::nullopt;
}

std::optional<Library> library() {
  static std::optional<Library> found;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!found) found = search();
  return found;
}

}  // namespace

bool load_tensorrt() {
  if (library()) return true;
  for (const char* name : kLibraries) {
    if (dlopen(name, RTLD_LAZY) && library()) return true;
  }
  return false;
}

nvinfer1::IPluginRegistry* find_registry() {
  const auto found = library();
  if (!found || !has_our_registry(found->version)) return nullptr;
  const auto get = reinterpret_cast<nvinfer1::IPluginRegistry* (*)()>(dlsym(found->handle, "getPluginRegistry"));
  return get ? get() : nullptr;
}

nvinfer1::ILogger* find_logger() {
  const auto found = library();
  if (!found) return nullptr;
  const FindLogger find = registry_logger;
  if (nvinfer1::ILogger* logger = find ? find() : nullptr) return logger;
  const auto get = reinterpret_cast<nvinfer1::ILogger* (*)()>(dlsym(found->handle, "getLogger"));
  return get ? get() : nullptr;
}

void set_logger_finder(FindLogger find) { registry_logger = find; }

}  // namespace seqexport::tensorrt
