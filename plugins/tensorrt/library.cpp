// How TensorRT comes to know the plugins: they register themselves when the library is loaded, by whatever means, and
// IPluginRegistry::loadLibrary finds its entry points.
#include <cuda_runtime_api.h>

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

bool is_known(nvinfer1::IPluginRegistry& registry, CreatorInterface& creator) {
  const auto [first, count] = list_of(registry);
  const auto is_named_so = [&](CreatorInterface* known) { return name_of(*known) == name_of(creator); };
  return std::any_of(first, first + count, is_named_so);
}

std::string dotted(std::initializer_list<int> numbers) {
  std::string text;
  for (const int number : numbers) text += (text.empty() ? "" : ".") + std::to_string(number);
  return text;
}

// TensorRT takes a name once: what another copy of this library registered stays, and end() makes room.
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
      if (!is_known(*registry, *creator) && registry->registerCreator(*creator, kNamespace)) ours_.push_back(creator);
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

// JSON: the versions of seqexport, and of the TensorRT and CUDA headers that the library was built with.
SEQEXPORT_EXPORT const char* seqexport_tensorrt_info() {
  static const auto& info =
      *new std::string("{\"seqexport\": \"" SEQEXPORT_VERSION "\", \"tensorrt\": \"" +
                       trt::dotted({NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_PATCH}) + "\", \"cuda\": \"" +
                       trt::dotted({CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10}) + "\"}");
  return info.c_str();
}
