#include "engine.h"

#include <set>

#include "error.h"
#include "plugins.h"
#include "states.h"

namespace seqexport {
namespace trt {
namespace {

constexpr char kPrefill[] = "prefill", kDecode[] = "decode";

// TensorRT keeps one for the process.
Logger& logger() {
  static Logger& all = *new Logger(false);
  return all;
}

void load_plugins(const Bundle& bundle, const EngineOptions& options, const std::string& version) {
  if (!options.use_plugins)
    throw BadArgument(bundle.folder.string() + ": its engine was built with plugins, and none are wanted; leave that out, or " +
                      build_again(bundle) + ", with --no-plugins");
  const PluginLibrary library = loaded_plugins(options.plugins, logger());
  if (library.version != version)
    throw UserError(bundle.folder.string() + ": its engine was built with the plugins of seqexport " + version +
                    ", and " + library.file.string() + " is of " + library.version + "; " + build_again(bundle));
}

bool is_type(nvinfer1::DataType type, const std::string& dtype) {
  if (dtype == "float32") return type == nvinfer1::DataType::kFLOAT;
  if (dtype == "float16") return type == nvinfer1::DataType::kHALF;
#if NV_TENSORRT_MAJOR >= 10
  if (dtype == "bfloat16") return type == nvinfer1::DataType::kBF16;
#endif
  return false;
}

}  // namespace

TrtEngine::TrtEngine(const Bundle& bundle, const EngineOptions& options) : Engine(bundle), device_(options.device) {
  const OnDevice on_device(device_);
  const Gpu here = current_gpu();
  const Plan plan = find_plan(bundle, here);
  const Record& record = plan.record;
  if (record.plugins && !record.carries_plugins) load_plugins(bundle, options, *record.plugins);
  load(plan);
  check_interface(record);
  caches_in_place_ = record.plugins.has_value();
  const size_t prefill = record.profile(kPrefill), decode = record.profile(kDecode);
  batches_ = limits("input_ids", "batch", prefill);
  widths_ = limits("input_ids", "seq", prefill);
  for (const State& state : bundle.states)
    if (state.grows()) rooms_ = limits(state.past, "max_len", prefill);
  feeds_ = feeds_of();
  executor_ = std::make_unique<Executor>(*engine_, this->bundle(), logger(), device_, prefill, decode);
  description_ = tensorrt_title() + ", " + here.name + ", " +
                 (record.plugins ? "plugins of seqexport " + *record.plugins : "function bodies") + ", target " +
                 bundle.target;
}

TrtEngine::~TrtEngine() {
  try {
    const OnDevice on_device(device_);
    executor_.reset();
    engine_.reset();
    runtime_.reset();
  } catch (const std::exception&) {  // the driver is gone, and all memory with it
  }
}

void TrtEngine::load(const Plan& plan) {
  logger().forget();
  runtime_ = create_runtime(logger());
  if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(plan.content.data(), plan.content.size()));
  if (engine_) return;
  const std::string cause = logger().cause(), told = tensorrt_title() + " cannot load " + plan.file.string() + " (" +
                            (cause.empty() ? "it gives no reason" : cause) + "); ";
  logger().forget();
  if (is_out_of_memory(cause)) throw NoMemory(told + "close other programs on the GPU");
  throw UserError(told + build_again(bundle()));
}

void TrtEngine::check_interface(const Record& record) const {
  const std::string again = "; " + build_again(bundle());
  std::set<std::string> ours(bundle().outputs.begin(), bundle().outputs.end()), theirs;
  for (const Input& input : bundle().inputs) ours.insert(input.name);
  for (int32_t i = 0; i < engine_->getNbIOTensors(); ++i) theirs.insert(engine_->getIOTensorName(i));
  if (ours != theirs)
    throw UserError(record.plan + ": its inputs and outputs are not those that seqexport.json lists" + again);
  for (const State& state : bundle().states)
    for (const std::string& name : {state.past, state.present})
      if (!is_type(engine_->getTensorDataType(name.c_str()), state.dtype))
        throw UserError(record.plan + ": " + name + " is not " + state.dtype + ", as seqexport.json has it" + again);
  if (!is_type(engine_->getTensorDataType("logits"), "float32"))
    throw UserError(record.plan + ": its logits are not float32, as exports now have them; export the model again");
}

std::vector<Feed> TrtEngine::feeds_of() const {
  const std::pair<const char*, decltype(Feed::what)> known[] = {
      {"seq_lens", Feed::kSeqLens}, {"past_lens", Feed::kPastLens}, {"input_ids", Feed::kTokens}};
  std::vector<Feed> feeds;
  for (const auto& [name, what] : known)
    for (const Input& input : bundle().inputs)
      if (input.name == name) {
        const bool narrow = engine_->getTensorDataType(name) == nvinfer1::DataType::kINT32;
        feeds.push_back({name, narrow ? sizeof(int32_t) : sizeof(int64_t), what});
      }
  return feeds;
}

Range TrtEngine::limits(const std::string& input, const std::string& axis, size_t profile) const {
  using nvinfer1::OptProfileSelector;
  const auto low = engine_->getProfileShape(input.c_str(), int32_t(profile), OptProfileSelector::kMIN);
  const auto high = engine_->getProfileShape(input.c_str(), int32_t(profile), OptProfileSelector::kMAX);
  for (const Input& each : bundle().inputs)
    for (size_t i = 0; each.name == input && i < each.shape.size(); ++i)
      if (each.shape[i].name == axis && int32_t(i) < low.nbDims) return {size_t(low.d[i]), size_t(high.d[i])};
  throw UserError(bundle().folder.string() + ": " + input + " has no axis " + axis + "; export the model again");
}

std::unique_ptr<seqexport::States> TrtEngine::states(size_t batch, size_t capacity) const {
  return std::make_unique<TrtStates>(*this, batch, capacity);
}

std::string TrtEngine::description() const { return description_; }

}  // namespace trt

std::shared_ptr<const Engine> open_engine(const Bundle& bundle, const EngineOptions& options) {
  return std::make_shared<const trt::TrtEngine>(bundle, options);
}

}  // namespace seqexport
