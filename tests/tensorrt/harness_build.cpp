// What TensorRT asks of a plugin at build time.
#include "harness.h"

namespace {

using nvinfer1::DynamicPluginTensorDesc;

#if NV_TENSORRT_MAJOR > 8
constexpr DataType kAllTypes[] = {DataType::kFLOAT, DataType::kHALF, DataType::kBF16, DataType::kINT32,
                                  DataType::kINT64, DataType::kINT8, DataType::kBOOL};
bool is_float(DataType type) {
  return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}
#else
constexpr DataType kAllTypes[] = {DataType::kFLOAT, DataType::kHALF, DataType::kINT32, DataType::kINT8,
                                  DataType::kBOOL};
#endif

std::vector<DataType> types_of(const Case& call, const std::vector<std::string>& names, DataType type) {
  std::vector<DataType> types;
  for (const std::string& name : names) types.push_back(data_type(call.arrays.at(name).type, type));
  return types;
}

void check_types(Plugin& plugin, const Case& call, DataType type, const std::string& what) {
  const auto came = plugin.output_types(types_of(call, call.inputs, type), plugin.output_count());
  expect(came == types_of(call, call.outputs, type), what + ": output types", take_log());
}

// TensorRT 8 says float32 of a network's inner tensors, of which T by the attribute, or by one input, is half.
void check_unsettled_types(const Library& library, const Case& call, const std::string& what) {
  Case stated = call;
  stated.attributes.emplace_back("T", "float16");
  const auto plugin = library.create(stated, joined(call.inputs));
  const auto came = plugin->output_types(types_of(call, call.inputs, DataType::kFLOAT), plugin->output_count());
  const std::string said = take_log();
  if (kIsV2) return expect(came == types_of(call, call.outputs, DataType::kHALF), what + ": T by its attribute", said);
  expect(!came && said.find("must be float16 by attribute 'T', got float32") != std::string::npos,
         what + ": T by its attribute", said);
}

// With extents known and unknown, every output's extents are what the reference's are.
void check_shapes(Plugin& plugin, const Case& call, bool known, const std::string& what) {
  Dimensions dimensions;
  ExprBuilder builder;
  std::vector<nvinfer1::DimsExprs> inputs;
  for (const std::string& name : call.inputs) {
    inputs.push_back(dimensions.make(describe(call.arrays.at(name), DataType::kFLOAT, known).dims));
  }
  const auto came = plugin.output_shapes(inputs, plugin.output_count(), builder);
  bool right = came && came->size() == call.outputs.size();
  for (size_t i = 0; right && i < came->size(); ++i) {
    const nvinfer1::DimsExprs& dims = (*came)[i];
    const nvinfer1::Dims wanted = describe(call.arrays.at(call.outputs[i]), DataType::kFLOAT, known).dims;
    right = dims.nbDims == wanted.nbDims;
    for (int axis = 0; right && axis < wanted.nbDims; ++axis) {
      const bool constant = dims.d[axis]->isConstant();
      right = constant ? dims.d[axis]->getConstantValue() == wanted.d[axis] : wanted.d[axis] < 0;
    }
  }
  expect(right, what + (known ? ": output shapes" : ": output shapes, batch and length unknown"), take_log());
}

// Whether input 0, which the others' types must match, may have a type; a plugin of TensorRT 8 has settled T before.
bool may_begin_with(DataType other, [[maybe_unused]] DataType settled) {
#if NV_TENSORRT_MAJOR > 8
  return is_float(other);
#else
  return other == settled;
#endif
}

// Its own types in the linear layout, and no tensor of any other type, layout or number.
void check_formats(Plugin& plugin, const Case& call, DataType type, const std::string& what) {
  std::vector<DynamicPluginTensorDesc> tensors = described(call, type);
  const int count = int(tensors.size()), inputs = int(call.inputs.size());
  bool all = true, only = true, counted = true;
  for (int i = 0; i < count; ++i) {
    all = all && plugin.supports(i, tensors, inputs);
    const PluginTensorDesc right = tensors[size_t(i)].desc;
    for (const DataType other : kAllTypes) {
      tensors[size_t(i)].desc.type = other;
      const bool may = i == 0 ? may_begin_with(other, right.type) : other == right.type;
      only = only && plugin.supports(i, tensors, inputs) == may;
    }
    tensors[size_t(i)].desc = right;
    tensors[size_t(i)].desc.format = nvinfer1::TensorFormat::kCHW4;
    only = only && !plugin.supports(i, tensors, inputs);
    tensors[size_t(i)].desc = right;
  }
  for (const int added : {1, 20}) {
    std::vector<DynamicPluginTensorDesc> more = tensors;
    more.insert(more.end(), size_t(added), tensors.back());
    for (int i = 0; i < int(more.size()); ++i) {
      counted = counted && !plugin.supports(i, more, inputs) && !plugin.supports(i, more, inputs + added);
    }
  }
  expect(all, what + ": its formats are supported");
  expect(only, what + ": no other format is");
  expect(counted, what + ": nor any with another number of tensors");
}

void check_copies(const Library& library, const Plugin& plugin, const Case& call, const std::string& what) {
  const std::string state = plugin.state();
  const auto restored = library.restore(call.op, state);
  expect(restored && restored->state() == state && restored->output_count() == plugin.output_count(),
         what + ": serialised and restored", take_log());
  bool same = true;
  for (const auto& copy : plugin.copies()) {
    same = same && copy->state() == state && copy->identity() == plugin.identity();
  }
  expect(same, what + ": copied");
}

void check_damage(const Library& library, const Plugin& plugin, const Case& call, const std::string& what) {
  const std::string state = plugin.state();
  bool refused = true;
  const auto refuses = [&](const std::string& damaged) {
    return !library.restore(call.op, damaged) && take_log().find("damaged") != std::string::npos;
  };
  for (size_t i = 0; i < state.size(); ++i) {
    std::string damaged = state;
    damaged[i] = char(damaged[i] ^ 1);
    refused = refused && refuses(damaged) && refuses(state.substr(0, i));
  }
  expect(refused && refuses(state + "0"), what + ": a damaged, cut or longer state is refused");
}

}  // namespace

void check_build(const Library& library, const Case& original, DataType type) {
  const Case call = answered(original, type);
  const std::string what = call.op + ", " + call.label + ", " + type_name(type);
  const auto plugin = library.create(call, joined(call.inputs));
  expect(bool(plugin), what + ": created", take_log());
  if (!plugin) return;
  expect(plugin->identity() == "::" + call.op + ", version 1" && plugin->output_count() == int(call.outputs.size()),
         what + ": name, version, namespace and outputs", plugin->identity());
  check_types(*plugin, call, type, what);
  if (type == DataType::kHALF) check_unsettled_types(library, call, what);
  check_shapes(*plugin, call, true, what);
  check_shapes(*plugin, call, false, what);
  check_formats(*plugin, call, type, what);
  expect(plugin->configure(described(call, type), int(call.inputs.size())), what + ": configured", take_log());
  check_copies(library, *plugin, call, what);
  if (type == DataType::kFLOAT) check_damage(library, *plugin, call, what);  // a state knows no type
}
