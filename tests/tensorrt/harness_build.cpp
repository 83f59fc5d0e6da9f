// What TensorRT asks of a plugin at build time, and what the plugin must refuse.
#include <cstring>

#include "harness.h"

namespace {

using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginFieldCollection;
using nvinfer1::TensorFormat;

std::vector<DynamicPluginTensorDesc> described(const Case& call, DataType type) {
  std::vector<DynamicPluginTensorDesc> all;
  for (const auto* names : {&call.inputs, &call.outputs}) {
    for (const std::string& name : *names) {
      DynamicPluginTensorDesc tensor = {};
      tensor.desc = describe(call.arrays.at(name), type, false);
      tensor.min = tensor.max = describe(call.arrays.at(name), type, true).dims;
      all.push_back(tensor);
    }
  }
  return all;
}

void check_types(const Plugin& plugin, const Case& call, DataType type, const std::string& what) {
  std::vector<DataType> inputs, outputs(call.outputs.size());
  for (const std::string& name : call.inputs) inputs.push_back(data_type(call.arrays.at(name).type, type));
  const int status = plugin.build->getOutputDataTypes(outputs.data(), int32_t(outputs.size()), inputs.data(),
                                                      int32_t(inputs.size()));
  bool right = status == 0 && plugin.build->getNbOutputs() == int32_t(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    right = right && outputs[i] == data_type(call.arrays.at(call.outputs[i]).type, type);
  }
  expect(right, what + ": output types", take_log());
}

// With extents known and unknown, every output's extents are what the reference's are.
void check_shapes(const Plugin& plugin, const Case& call, bool known, const std::string& what) {
  Dimensions dimensions;
  ExprBuilder builder;
  std::vector<nvinfer1::DimsExprs> inputs, outputs(call.outputs.size());
  for (const std::string& name : call.inputs) {
    const nvinfer1::Dims dims = describe(call.arrays.at(name), DataType::kFLOAT, known).dims;
    inputs.push_back(dimensions.make({dims.d, dims.d + dims.nbDims}));
  }
  const int status = plugin.build->getOutputShapes(inputs.data(), int32_t(inputs.size()), nullptr, 0, outputs.data(),
                                                   int32_t(outputs.size()), builder);
  bool right = status == 0;
  for (size_t i = 0; right && i < outputs.size(); ++i) {
    const nvinfer1::Dims wanted = describe(call.arrays.at(call.outputs[i]), DataType::kFLOAT, known).dims;
    right = outputs[i].nbDims == wanted.nbDims;
    for (int axis = 0; right && axis < wanted.nbDims; ++axis) {
      const bool constant = outputs[i].d[axis]->isConstant();
      right = constant ? outputs[i].d[axis]->getConstantValue() == wanted.d[axis] : wanted.d[axis] < 0;
    }
  }
  expect(right, what + (known ? ": output shapes" : ": output shapes, batch and length unknown"), take_log());
}

// Its own types in the linear layout, and no tensor of any other type or layout.
void check_formats(const Plugin& plugin, const Case& call, DataType type, const std::string& what) {
  std::vector<DynamicPluginTensorDesc> tensors = described(call, type);
  const int count = int(tensors.size()), inputs = int(call.inputs.size());
  const auto supported = [&](int position) {
    return plugin.build->supportsFormatCombination(position, tensors.data(), inputs, count - inputs);
  };
  bool all = true, only = true;
  for (int i = 0; i < count; ++i) {
    all = all && supported(i);
    const nvinfer1::PluginTensorDesc right = tensors[size_t(i)].desc;
    const bool is_first = i == 0;  // what the other tensors of its type must match
    for (const DataType other : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16, DataType::kINT32, DataType::kINT64,
                                 DataType::kINT8, DataType::kBOOL}) {
      const bool is_float = other == DataType::kFLOAT || other == DataType::kHALF || other == DataType::kBF16;
      tensors[size_t(i)].desc.type = other;
      only = only && supported(i) == (is_first ? is_float : other == right.type);
    }
    tensors[size_t(i)].desc = right;
    tensors[size_t(i)].desc.format = TensorFormat::kCHW4;
    only = only && !supported(i);
    tensors[size_t(i)].desc = right;
  }
  expect(all, what + ": its formats are supported");
  expect(only, what + ": no other format is");
}

std::string state_of(const Plugin& plugin) {
  const PluginFieldCollection* fields = plugin.runtime->getFieldsToSerialize();
  if (fields->nbFields != 1) return "";
  return {static_cast<const char*>(fields->fields[0].data), size_t(fields->fields[0].length)};
}

void check_copies(const Library& library, const Plugin& plugin, const Case& call, const std::string& what) {
  const std::string state = state_of(plugin);
  const Plugin restored = library.restore(call.op, plugin.runtime->getFieldsToSerialize());
  expect(restored && state_of(restored) == state, what + ": serialised and restored", take_log());
  const Plugin clone(plugin.self->clone()), attached(plugin.runtime->attachToContext(nullptr));
  expect(clone && state_of(clone) == state && attached && state_of(attached) == state, what + ": cloned and attached");
  bool refused = true;
  for (size_t i = 0; i < state.size(); ++i) {
    std::string damaged = state;
    damaged[i] = char(damaged[i] ^ 1);
    nvinfer1::PluginField field = plugin.runtime->getFieldsToSerialize()->fields[0];
    field.data = damaged.data();
    const PluginFieldCollection fields = {1, &field};
    refused = refused && !library.restore(call.op, &fields) && take_log().find("damaged") != std::string::npos;
  }
  expect(refused, what + ": a damaged state is refused");
}

// A call that must be refused: `spoil` changes one, `message` must be part of what is logged.
struct Refusal {
  std::string op;
  void (*spoil)(Case&);
  std::string message;
};

// Two tokens more than the kernels number, as known extents of an input [B, L, ...].
void lengthen(Array& array) {
  array.axes.clear();
  array.shape[0] = 2;
  array.shape[1] = (1 << 29) + 1;
}

const std::vector<Refusal>& refusals() {
  static const std::vector<Refusal> all = {
      {"CausalConv1d", [](Case& c) { c.arrays["weight"].shape = {25, 4}; },
       "CausalConv1d 'node': input 'weight' must be [D=24, K], got [25, 4]; D is 24 by input 'x'"},
      {"CausalConv1d", [](Case& c) { c.arrays["weight"].shape = {24, 9}; }, "got [24, 9]; K may be 2 to 8"},
      {"CausalConv1d", [](Case& c) { c.arrays["past"].shape = {2, 24, 4}; },
       "input 'past' must be [B, D=24, K-1=3], got [?, 24, 4]"},
      {"CausalConv1d", [](Case& c) { c.arrays["x"].shape = {2, 24}; }, "input 'x' must be [B, L, D], got [?, ?]"},
      {"CausalConv1d", [](Case& c) { c.arrays["bias"].type = 'F'; },
       "input 'bias' must be float16 as input 'x' is, got "},
      {"CausalConv1d", [](Case& c) { c.arrays["seq_lens"].type = 'T'; },
       "input 'seq_lens' must be int32, got float16"},
      {"CausalConv1d", [](Case& c) { c.inputs.pop_back(); },
       "expected 5 inputs (x, weight, bias, past, seq_lens), got 4"},
      {"CausalConv1d", [](Case& c) { c.attributes = {{"activation", "relu"}}; },
       "attribute 'activation' must be none or silu, got 'relu'"},
      {"CausalConv1d", [](Case& c) { c.attributes = {{"dilation", 2}}; }, "there is no attribute 'dilation'"},
      {"CausalConv1d", [](Case& c) { c.attributes = {{"inputs", "x,past"}}; },
       "must name input 'weight' in its place"},
      {"CausalConv1d", [](Case& c) { c.attributes = {{"inputs", "x,weight,past,y"}}; }, "names 'y'"},
      {"SelectiveScan", [](Case& c) { c.arrays["A"].type = 'T'; }, "input 'A' must be float32, got float16"},
      {"SelectiveScan", [](Case& c) { c.arrays["B"].shape[3] = 8; },
       "input 'B' must be [B, L, G=2, N=16], got [?, ?, 2, 8]"},
      {"SelectiveScan", [](Case& c) { c.arrays["C"].shape.pop_back(); }, "input 'C' must be [B, L, G=2, N=16], got"},
      {"SelectiveScan", [](Case& c) { c.attributes = {{"dt_softplus", 2}}; },
       "attribute 'dt_softplus' must be an integer of at least 0 and at most 1, got 2"},
      {"CausalAttention", [](Case& c) { c.arrays["query"].shape[2] = 3; },
       "Hq (query heads) must be a multiple of Hkv (key heads) = 2, got 3"},
      {"CausalAttention", [](Case& c) { c.arrays["past_key"].shape[3] = 64; },
       "input 'past_key' must be [B, Hkv=2, S, "},
      {"CausalAttention", [](Case& c) { c.attributes = {{"window", -1}}; },
       "attribute 'window' must be an integer of"},
      {"CausalAttention", [](Case& c) { c.attributes = {{"scale", "big"}}; },
       "attribute 'scale' must be a number of at least 0, got 'big'"},
      {"RmsNorm", [](Case& c) { c.attributes = {{"wide", 2}}; },
       "attribute 'wide' must be an integer of at least 0 and at most 1, got 2"},
      {"RmsNorm", [](Case& c) { c.attributes = {{"wide", 0}}; }, "input 'residual' must be float16 as input 'x' is"},
      {"RmsNorm", [](Case& c) { c.arrays["residual"].type = 'T'; }, "input 'residual' must be float32, got float16"},
      {"RotaryQueryKey", [](Case& c) { c.arrays["cos"].shape[2] = c.arrays["sin"].shape[2] = 47; },
       "R (rotated features) must be even and at most Dh = 48, got 47"},
      {"RotaryQueryKey", [](Case& c) { c.arrays["cos"].shape[2] = c.arrays["sin"].shape[2] = 50; },
       "R (rotated features) must be even and at most Dh = 48, got 50"},
      {"Linear", [](Case& c) { lengthen(c.arrays["x"]); },
       "Linear 'node': B * L (tokens) must be at most 1073741824, got 1073741826"},
      {"RmsNorm", [](Case& c) { lengthen(c.arrays["x"]); },
       "RmsNorm 'node': B * L (tokens) must be at most 1073741824, got 1073741826"},
      {"RotaryQueryKey", [](Case& c) { lengthen(c.arrays["query"]); },
       "RotaryQueryKey 'node': B * L (tokens) must be at most 1073741824, got 1073741826"},
      {"Embedding", [](Case& c) { lengthen(c.arrays["ids"]); },
       "Embedding 'node': B * L (tokens) must be at most 1073741824, got 1073741826"},
  };
  return all;
}

// Whether some step of a build refuses the call.
bool refuses(const Library& library, const Case& call) {
  const Plugin plugin = library.create(call, "");
  if (!plugin) return true;
  std::vector<DataType> types, outputs(call.outputs.size());
  std::vector<nvinfer1::DimsExprs> shapes, out_shapes(call.outputs.size());
  Dimensions dimensions;
  ExprBuilder builder;
  for (const std::string& name : call.inputs) {
    const nvinfer1::PluginTensorDesc desc = describe(call.arrays.at(name), DataType::kHALF, false);
    types.push_back(desc.type);
    shapes.push_back(dimensions.make({desc.dims.d, desc.dims.d + desc.dims.nbDims}));
  }
  const int count = int(types.size()), out_count = int(outputs.size());
  return plugin.build->getOutputDataTypes(outputs.data(), out_count, types.data(), count) != 0 ||
         plugin.build->getOutputShapes(shapes.data(), count, nullptr, 0, out_shapes.data(), out_count, builder) != 0;
}

}  // namespace

void check_build(const Library& library, const Case& original, DataType type) {
  const Case call = answered(original, type);
  const std::string what = call.op + ", " + call.label + ", " + type_name(type);
  const Plugin plugin = library.create(call, joined(call.inputs));
  expect(bool(plugin), what + ": created", take_log());
  if (!plugin) return;
  expect(call.op == plugin.core->getPluginName() && std::strcmp(plugin.core->getPluginNamespace(), "") == 0,
         what + ": name and namespace");
  check_types(plugin, call, type, what);
  check_shapes(plugin, call, true, what);
  check_shapes(plugin, call, false, what);
  check_formats(plugin, call, type, what);
  const std::vector<DynamicPluginTensorDesc> tensors = described(call, type);
  const int inputs = int(call.inputs.size()), outputs = int(call.outputs.size());
  expect(plugin.build->configurePlugin(tensors.data(), inputs, tensors.data() + inputs, outputs) == 0,
         what + ": configured", take_log());
  check_copies(library, plugin, call, what);
}

void check_refusals(const Library& library) {
  for (const Refusal& refusal : refusals()) {
    for (const Case& original : cases()) {
      if (original.op != refusal.op || original.label != "every input, prefill") continue;
      Case call = answered(original, DataType::kHALF);
      refusal.spoil(call);
      const bool refused = refuses(library, call);
      const std::string message = take_log();
      expect(refused && message.find(refusal.message) != std::string::npos, "refused: " + refusal.message, message);
    }
  }
}
