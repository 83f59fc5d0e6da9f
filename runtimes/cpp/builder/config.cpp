#include "config.h"

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "error.h"
#include "files.h"
#include "tensorrt.h"

namespace seqexport {
namespace {

using nvinfer1::BuilderFlag;
using nvinfer1::MemoryPoolType;

// By their bits.
#if NV_TENSORRT_MAJOR >= 11
const std::vector<std::string> kTacticSources = {"EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"};
#else
const std::vector<std::string> kTacticSources = {"CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS",
                                                 "JIT_CONVOLUTIONS"};
#endif

const std::map<std::string, MemoryPoolType> kMemoryPools = {
    {"workspace", MemoryPoolType::kWORKSPACE},
    {"dlaSRAM", MemoryPoolType::kDLA_MANAGED_SRAM},
    {"dlaLocalDRAM", MemoryPoolType::kDLA_LOCAL_DRAM},
    {"dlaGlobalDRAM", MemoryPoolType::kDLA_GLOBAL_DRAM},
#if NV_TENSORRT_MAJOR >= 10
    {"tacticSharedMem", MemoryPoolType::kTACTIC_SHARED_MEMORY},
#endif
};

[[maybe_unused, noreturn]] void unsupported(const char* flag, const char* since) {
  throw UserError(std::string(flag) + " needs TensorRT " + since + ", this is " + tensorrt_title() + "; leave it out");
}

void set_tactic_sources(nvinfer1::IBuilderConfig& config, const std::vector<std::string>& names) {
  nvinfer1::TacticSources sources = 0;
  for (const std::string& name : names) {
    const auto found = std::find(kTacticSources.begin(), kTacticSources.end(), name);
    std::string known;
    for (const std::string& each : kTacticSources) known += " " + each;
    if (found == kTacticSources.end())
      throw UserError("--tactic-sources: no " + name + " in " + tensorrt_title() + "; it has" + known);
    sources |= 1U << (found - kTacticSources.begin());
  }
  if (!config.setTacticSources(sources)) throw UserError("--tactic-sources: TensorRT refuses this choice");
}

void set_memory_pools(nvinfer1::IBuilderConfig& config, const std::map<std::string, uint64_t>& pools) {
  for (const auto& [name, bytes] : pools) {
    const auto pool = kMemoryPools.find(name);
    std::string known;
    for (const auto& each : kMemoryPools) known += " " + each.first;
    if (pool == kMemoryPools.end()) throw UserError("--memPoolSize: no pool " + name + "; expected one of" + known);
    config.setMemoryPoolLimit(pool->second, bytes);
  }
}

#if SEQEXPORT_TENSORRT_SINCE(8, 6)
using nvinfer1::PreviewFeature;

#if NV_TENSORRT_MAJOR < 10
constexpr auto kFasterDynamicShapes = PreviewFeature(0);  // by value: its name warns of deprecation
#endif

// Execution contexts may share a profile; from 10 on they always may. Fewer layers go to Myelin, which fails in 8.6.0
// where a model has real sizes (seen with 130 M parameters on an H100).
void set_preview_defaults([[maybe_unused]] nvinfer1::IBuilderConfig& config) {
#if NV_TENSORRT_MAJOR < 10
  config.setPreviewFeature(PreviewFeature::kPROFILE_SHARING_0806, true);
  config.setPreviewFeature(kFasterDynamicShapes, false);
#endif
}

const std::map<std::string, PreviewFeature> kPreviewFeatures = {
#if NV_TENSORRT_MAJOR < 10
    {"fasterDynamicShapes0805", kFasterDynamicShapes},
    {"disableExternalTacticSourcesForCore0805", PreviewFeature::kDISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805},
    {"profileSharing0806", PreviewFeature::kPROFILE_SHARING_0806},
#elif SEQEXPORT_TENSORRT_SINCE(10, 3)
    {"aliasedPluginIO1003", PreviewFeature::kALIASED_PLUGIN_IO_10_03},
#endif
#if SEQEXPORT_TENSORRT_SINCE(10, 10)
    {"runtimeActivationResize1010", PreviewFeature::kRUNTIME_ACTIVATION_RESIZE_10_10},
#endif
};

void set_preview(nvinfer1::IBuilderConfig& config, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const auto found = name.empty() ? kPreviewFeatures.end() : kPreviewFeatures.find(name.substr(1));
    std::string known;
    for (const auto& each : kPreviewFeatures) known += " " + each.first;
    if (found == kPreviewFeatures.end() || (name[0] != '+' && name[0] != '-'))
      throw UserError("--preview '" + name + "': expected + or - and a feature of " + tensorrt_title() + ":" + known);
    config.setPreviewFeature(found->second, name[0] == '+');
  }
}

void set_newer_options(nvinfer1::IBuilderConfig& config, const Options& options, const PluginLibrary* plugins) {
  set_preview_defaults(config);
  set_preview(config, options.preview);
  if (options.optimization_level) config.setBuilderOptimizationLevel(*options.optimization_level);
  if (options.version_compatible && kRtx)
    throw UserError("--versionCompatible: " + tensorrt_title() + " has no such engines; leave it out");
  if (options.version_compatible) config.setFlag(BuilderFlag::kVERSION_COMPATIBLE);
  if (!options.serialize_plugins) return;
  if (!plugins) throw UserError("--setPluginsToSerialize: the engine uses no plugin library; leave it out");
  const char* file = plugins->file.c_str();
  config.setPluginsToSerialize(&file, 1);
}
#else
void set_newer_options(nvinfer1::IBuilderConfig&, const Options& options, const PluginLibrary*) {
  if (options.optimization_level) unsupported("--builderOptimizationLevel", "8.6 or newer");
  if (options.version_compatible) unsupported("--versionCompatible", "8.6 or newer");
  if (!options.preview.empty()) unsupported("--preview", "8.6 or newer");
}
#endif

// Whether a timing cache is refused for Myelin's part, which versions before 10 write and then cannot read.
bool loses_timings(const std::string& cause) {
  return NV_TENSORRT_MAJOR < 10 && cause.find("Myelin") != std::string::npos;
}

}  // namespace

void configure(nvinfer1::IBuilderConfig& config, const Options& options, const PluginLibrary* plugins) {
  config.clearFlag(BuilderFlag::kTF32);
  set_memory_pools(config, options.memory_pools);
  if (options.tactic_sources) set_tactic_sources(config, *options.tactic_sources);
  set_newer_options(config, options, plugins);
}

TimingCache::TimingCache(nvinfer1::IBuilderConfig& config, std::filesystem::path file, Logger& logger)
    : file_(std::move(file)) {
  if (file_.empty()) return;
  if (std::filesystem::exists(file_)) before_ = read_file(file_, kAny);
  require_writable(file_);
  cache_.reset(config.createTimingCache(before_.empty() ? nullptr : before_.data(), before_.size()));
  if (!cache_ && loses_timings(logger.cause())) {
    std::fprintf(stderr, "warning: %s cannot read the timings it wrote to %s: it measures again\n",
                 tensorrt_title().c_str(), file_.c_str());
    logger.forget();
    cache_.reset(config.createTimingCache(nullptr, 0));
  }
  if (!cache_ || !config.setTimingCache(*cache_, false))
    throw UserError(file_.string() + ": not a timing cache of this GPU and " + tensorrt_title() +
                    "; delete it or give another --timingCacheFile");
}

void TimingCache::save() const {
  if (!cache_) return;
  try {
    const std::unique_ptr<nvinfer1::IHostMemory> blob(cache_->serialize());
    if (!blob) throw UserError(file_.string() + ": TensorRT does not serialise its timings");
    if (before_ == std::string(static_cast<const char*>(blob->data()), blob->size())) return;
    PendingFile(file_, blob->data(), blob->size()).commit();
  } catch (const UserError& error) {
    std::fprintf(stderr, "warning: the timings are lost: %s\n", plain(error.what()).c_str());
  }
}

}  // namespace seqexport
