#include "engine.h"

#include "config.h"
#include "creating.h"
#include "error.h"
#include "plugins.h"
#include "precision.h"

namespace seqexport {
namespace {

using nvinfer1::OptProfileSelector;

[[noreturn]] void fail(const std::string& what, const std::string& cause) {
  throw UserError(what + ": " +
                  (cause.empty() ? "TensorRT gives no reason; --verbose prints all that it says" : cause));
}

std::string text_of(const nvonnxparser::IParserError& error) {
  std::string text = one_line(error.desc());
#if NV_TENSORRT_MAJOR >= 10
  if (error.node() >= 0) text = std::string(error.nodeOperator()) + " '" + error.nodeName() + "': " + text;
#endif
  const bool no_plugin = text.find("Plugin not found") != std::string::npos;
  return text + (no_plugin ? "; for seqexport's ops, give --plugins=libseqexport_tensorrt.so" : "");
}

// The parser also holds the weights; it must live until the engine is built.
std::unique_ptr<nvonnxparser::IParser> parse(const std::filesystem::path& model, nvinfer1::INetworkDefinition& network,
                                             Logger& logger) {
  auto parser = create_parser(network, logger);
  if (!parser) fail("TensorRT's ONNX parser", logger.cause());
  const int severity = static_cast<int>(nvinfer1::ILogger::Severity::kWARNING);
  if (parser->parseFromFile(model.c_str(), severity)) return parser;
  const bool told = parser->getNbErrors() > 0 && !logger.has_plugin_complaint();
  fail("cannot parse " + model.string(), told ? text_of(*parser->getError(0)) : logger.cause());
}

// Every axis that is not fixed gets a name of its own.
std::vector<Input> inputs_of(const nvinfer1::INetworkDefinition& network) {
  std::vector<Input> inputs;
  for (int i = 0; i < network.getNbInputs(); ++i) {
    const nvinfer1::ITensor& tensor = *network.getInput(i);
    const nvinfer1::Dims dims = tensor.getDimensions();
    Input input{tensor.getName(), {}};
    for (int axis = 0; axis < dims.nbDims; ++axis) {
      const bool fixed = dims.d[axis] >= 0;
      input.shape.push_back({dims.d[axis], fixed ? "" : input.name + "[" + std::to_string(axis) + "]"});
    }
    inputs.push_back(std::move(input));
  }
  return inputs;
}

nvinfer1::Dims dims_of(const Shape& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = int32_t(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) dims.d[i] = static_cast<std::decay_t<decltype(dims.d[0])>>(shape[i]);
  return dims;
}

std::string build_cause(const Logger& logger) {
  const std::string cause = logger.cause();
  return cause + (is_out_of_memory(cause)
                      ? "; close other programs on the GPU, or give another --memPoolSize or smaller --maxShapes"
                      : "");
}

// A size that depends on an input's values must be known before a call; our runtimes keep all inputs on the device.
void check_no_shape_inputs(const nvinfer1::INetworkDefinition& network) {
  for (int i = 0; !kRtx && i < network.getNbInputs(); ++i)
    if (network.getInput(i)->isShapeTensor())
      throw UserError(std::string("in the ops' function bodies, sizes depend on the values of ") +
                      network.getInput(i)->getName() +
                      ", which TensorRT must know before it runs; export with --target tensorrt and build the plugins");
}

void add_profile(nvinfer1::IBuilder& builder, nvinfer1::IBuilderConfig& config, const Profile& profile,
                 Logger& logger) {
  nvinfer1::IOptimizationProfile* added = builder.createOptimizationProfile();
  bool valid = added != nullptr;
  for (const auto& [name, shapes] : profile.inputs) {
    valid = valid && added->setDimensions(name.c_str(), OptProfileSelector::kMIN, dims_of(shapes.min)) &&
            added->setDimensions(name.c_str(), OptProfileSelector::kOPT, dims_of(shapes.opt)) &&
            added->setDimensions(name.c_str(), OptProfileSelector::kMAX, dims_of(shapes.max));
  }
  if (!valid || config.addOptimizationProfile(added) < 0)
    fail("profile " + profile.name + " is refused", logger.cause());
}

}  // namespace

Engine build_engine(const Options& options, const Bundle* bundle, PluginLibrary* plugins, Logger& logger) {
  const std::filesystem::path model = bundle ? bundle->model.file : options.bundle;
  const auto builder = create_builder(logger);
  if (!builder) fail(tensorrt_title() + " makes no builder", logger.cause());
  if (plugins) load(*plugins, logger);
  if (!bundle) load_standard_plugins(logger);
  const auto network = create_network(*builder);
  const std::unique_ptr<nvinfer1::IBuilderConfig> config(builder->createBuilderConfig());
  if (!network || !config) fail(tensorrt_title() + " makes no network", logger.cause());
  logger.forget();  // without a GPU, TensorRT-RTX complains here and goes on
  const auto parser = parse(model, *network, logger);
  if (bundle && !plugins) check_no_shape_inputs(*network);

  Engine engine;
  engine.profiles =
      bundle ? bundle_profiles(*bundle, options.shapes) : plain_profiles(inputs_of(*network), options.shapes);
  for (const Profile& profile : engine.profiles) add_profile(*builder, *config, profile, logger);
  configure(*config, options, plugins);
  keep_precisions(*network, *config);
  const TimingCache timings(*config, options.timing_cache, logger);
  engine.plan.reset(builder->buildSerializedNetwork(*network, *config));
  if (!engine.plan) fail("cannot build an engine of " + model.string(), build_cause(logger));
  timings.save();
  return engine;
}

}  // namespace seqexport
