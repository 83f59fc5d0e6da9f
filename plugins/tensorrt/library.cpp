// How TensorRT comes to know the plugins: they register themselves when the library is loaded, by whatever means, and
// IPluginRegistry::loadLibrary finds its entry points.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <initializer_list>
#include <string>

#include "creators.h"
#include "host.h"
#include "tensorrt.h"

#define SEQEXPORT_EXPORT extern "C" __attribute__((visibility("default")))

namespace seqexport::tensorrt {
namespace {

std::pair<CreatorInterface* const*, int32_t> list_of(nvinfer1::IPluginRegistry& registry) {
  int32_t count = 0;
#if NV_TENSORRT_MAJOR > 8
  CreatorInterface* const* first = registry.getAllCreators(&count);
#else
  CreatorInterface* const* first = registry.getPluginCreatorList(&count);
#endif
  return {first, count};
}

// Under the name, version and namespace of one of ours; null where there is none.
CreatorInterface* registered(nvinfer1::IPluginRegistry& registry, CreatorInterface& ours) {
  const auto [first, count] = list_of(registry);
  const std::string wanted = identity_of(ours);
  const auto found = std::find_if(first, first + count, [&](CreatorInterface* c) { return identity_of(*c) == wanted; });
  return found == first + count ? nullptr : *found;
}

// The file of the library or program that a creator's class is in.
std::string file_of(const CreatorInterface& creator) {
  Dl_info info = {};
  dladdr(*reinterpret_cast<const void* const*>(&creator), &info);  // its table of virtual functions
  return info.dli_fname ? info.dli_fname : "a library that cannot be found out";
}

// Whether it is of this library, or of another copy of it.
bool is_ours(const CreatorInterface& creator) {
  void* handle = dlopen(file_of(creator).c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (!handle) return false;
  const bool ours = dlsym(handle, "seqexport_tensorrt_info");
  dlclose(handle);
  return ours;
}

std::string complaint(CreatorInterface& wanted, const CreatorInterface& taken) {
  return "plugin '" + identity_of(wanted) + "', is already registered with TensorRT by " + file_of(taken) +
         ", which would build seqexport's nodes; keep the two in processes of their own, or load seqexport's first";
}

std::string dotted(std::initializer_list<int> numbers) {
  std::string text;
  for (const int number : numbers) text += (text.empty() ? "" : ".") + std::to_string(number);
  return text;
}

// "CausalAttention", ...
std::string op_names() {
  std::vector<std::string> names;
  for (const Op& op : ops()) {
    if (op.launch) names.push_back(std::string("\"") + op.name + "\"");
  }
  return joined(names, ", ");
}

// TensorRT takes a name once: what another copy of this library registered stays, and end() makes room. A plugin of
// others under a name of ours is an error, which seqexport's programs look for when they have loaded this library.
class Registration {
 public:
  Registration() {
    if (!load_tensorrt()) {
      std::fprintf(stderr, "seqexport: no TensorRT %d is loaded or on the library path, and these plugins need it\n",
                   NV_TENSORRT_MAJOR);
    }
    nvinfer1::IPluginRegistry* registry = find_registry();
    if (!registry) return;
    for (CreatorInterface* creator : creators()) {
      const CreatorInterface* known = registered(*registry, *creator);
      if (known && !is_ours(*known)) report(complaint(*creator, *known));
      if (!known && registry->registerCreator(*creator, kNamespace)) ours_.push_back(creator);
    }
  }
  ~Registration() { end(); }

  void end() {
    for (CreatorInterface* creator : ours_) find_registry()->deregisterCreator(*creator);
    ours_.clear();
  }

 private:
  std::vector<CreatorInterface*> ours_;
} registration;

}  // namespace
}  // namespace seqexport::tensorrt

namespace trt = seqexport::tensorrt;

#if NV_TENSORRT_MAJOR > 8
SEQEXPORT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
#else
SEQEXPORT_EXPORT nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count) {
#endif
  trt::registration.end();
  count = int32_t(trt::creators().size());
  return trt::creators().data();
}

#if NV_TENSORRT_MAJOR > 8 || NV_TENSORRT_MINOR >= 6
SEQEXPORT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  static std::atomic<nvinfer1::ILoggerFinder*> current;
  current = finder;
  trt::set_logger_finder([] { return current ? current.load()->findLogger() : nullptr; });
}
#endif

// JSON: the versions of seqexport, and of the TensorRT and CUDA headers that the library was built with, and the ops
// that are plugins.
SEQEXPORT_EXPORT const char* seqexport_tensorrt_info() {
  static const auto& info =
      *new std::string("{\"seqexport\": \"" SEQEXPORT_VERSION "\", \"tensorrt\": \"" +
                       trt::dotted({NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_PATCH}) + "\", \"cuda\": \"" +
                       trt::dotted({CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10}) + "\", \"ops\": [" +
                       trt::op_names() + "]}");
  return info.c_str();
}

// One line about a plugin of others that TensorRT has under a name of ours; empty where there is none.
SEQEXPORT_EXPORT const char* seqexport_tensorrt_conflict() {
  static thread_local std::string text;
  text.clear();
  nvinfer1::IPluginRegistry* registry = trt::find_registry();
  for (trt::CreatorInterface* creator : trt::creators()) {
    const trt::CreatorInterface* known = registry ? trt::registered(*registry, *creator) : nullptr;
    if (text.empty() && known && !trt::is_ours(*known)) text = trt::complaint(*creator, *known);
  }
  return text.c_str();
}
