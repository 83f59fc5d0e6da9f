#include "precision.h"

#include "tensorrt.h"

#if NV_TENSORRT_MAJOR >= 10

namespace seqexport {

void keep_precisions(nvinfer1::INetworkDefinition&, nvinfer1::IBuilderConfig&) {}

}  // namespace seqexport

#else

#include <unordered_map>
#include <vector>

namespace seqexport {
namespace {

using nvinfer1::DataType;
using nvinfer1::ILayer;
using nvinfer1::ITensor;
using nvinfer1::LayerType;

bool is_float(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; }

// What types the graph gives to its tensors; TensorRT 8 itself calls most of them float32 until it builds.
class Types {
 public:
  DataType of(const ITensor& tensor) const {
    const auto known = types_.find(&tensor);
    return known == types_.end() ? tensor.getType() : known->second;
  }

  void follow(ILayer& layer) {
    for (int i = 0; i < layer.getNbOutputs(); ++i) types_[layer.getOutput(i)] = output_type(layer, i);
  }

 private:
  DataType output_type(ILayer& layer, int index) const {
    const DataType stated = layer.getOutput(index)->getType();
    if (layer.outputTypeIsSet(index)) return layer.getOutputType(index);
    switch (layer.getType()) {
      case LayerType::kCONSTANT: return static_cast<nvinfer1::IConstantLayer&>(layer).getWeights().type;
#if SEQEXPORT_TENSORRT_SINCE(8, 6)
      case LayerType::kCAST: return static_cast<nvinfer1::ICastLayer&>(layer).getToType();
#endif
      case LayerType::kPLUGIN_V2: return plugin_type(static_cast<nvinfer1::IPluginV2Layer&>(layer), index);
      default: return is_float(stated) ? first_float(layer, stated) : stated;
    }
  }

  DataType plugin_type(nvinfer1::IPluginV2Layer& layer, int index) const {
    std::vector<DataType> inputs;
    for (int i = 0; i < layer.getNbInputs(); ++i) inputs.push_back(of(*layer.getInput(i)));
    return static_cast<nvinfer1::IPluginV2DynamicExt&>(layer.getPlugin())
        .getOutputDataType(index, inputs.data(), layer.getNbInputs());
  }

  // An ONNX op's floating inputs and outputs have one type.
  DataType first_float(const ILayer& layer, DataType otherwise) const {
    for (int i = 0; i < layer.getNbInputs(); ++i) {
      const ITensor* input = layer.getInput(i);
      if (input && is_float(of(*input))) return of(*input);
    }
    return otherwise;
  }

  std::unordered_map<const ITensor*, DataType> types_;
};

// Layers that compute nothing, and those whose types are settled elsewhere.
bool takes_precision(LayerType type) {
  switch (type) {
    case LayerType::kCONSTANT:
#if SEQEXPORT_TENSORRT_SINCE(8, 6)
    case LayerType::kCAST:
#endif
    case LayerType::kIDENTITY:  // before 8.6, a cast
    case LayerType::kSHAPE:
    case LayerType::kPLUGIN_V2:
    case LayerType::kTRIP_LIMIT:
    case LayerType::kRECURRENCE:
    case LayerType::kITERATOR:
    case LayerType::kLOOP_OUTPUT:
    case LayerType::kCONDITION:
    case LayerType::kCONDITIONAL_INPUT:
    case LayerType::kCONDITIONAL_OUTPUT: return false;
    default: return true;
  }
}

void pin(ILayer& layer, const Types& types) {
  for (int i = 0; i < layer.getNbOutputs(); ++i) {
    const ITensor& output = *layer.getOutput(i);
    const DataType type = types.of(output);
    if (!is_float(type) || output.isShapeTensor()) continue;
    layer.setPrecision(type);
    layer.setOutputType(i, type);
  }
}

}  // namespace

void keep_precisions(nvinfer1::INetworkDefinition& network, nvinfer1::IBuilderConfig& config) {
  Types types;
  bool any_half = false;
  for (int i = 0; i < network.getNbInputs(); ++i) any_half |= types.of(*network.getInput(i)) == DataType::kHALF;
  for (int i = 0; i < network.getNbLayers(); ++i) {
    ILayer& layer = *network.getLayer(i);
    types.follow(layer);
    for (int output = 0; output < layer.getNbOutputs(); ++output)
      any_half |= types.of(*layer.getOutput(output)) == DataType::kHALF;
  }
  if (!any_half) return;
  config.setFlag(nvinfer1::BuilderFlag::kFP16);
  config.setFlag(nvinfer1::BuilderFlag::kOBEY_PRECISION_CONSTRAINTS);
  for (int i = 0; i < network.getNbLayers(); ++i)
    if (takes_precision(network.getLayer(i)->getType())) pin(*network.getLayer(i), types);
}

}  // namespace seqexport

#endif
