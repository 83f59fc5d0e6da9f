// What a plugin must refuse, and in which words.
#include "harness.h"

namespace {

// A call that must be refused: `spoil` changes one, `message` must be part of what is logged.
struct Refusal {
  std::string op;
  void (*spoil)(Case&);
  std::string message;
  bool since_v3 = false;  // TensorRT 8 may say float32 of any tensor that is half
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
       "input 'bias' must be float16 as input 'x' is, got ", true},
      {"CausalConv1d", [](Case& c) { c.arrays["seq_lens"].type = 'T'; },
       "input 'seq_lens' must be int32, got float16"},
      {"CausalConv1d", [](Case& c) { c.inputs.pop_back(); },
       "expected 5 inputs (x, weight, bias, past, seq_lens), got 4"},
      {"CausalConv1d", [](Case& c) { c.inputs.push_back("x"); },
       "expected 5 inputs (x, weight, bias, past, seq_lens), got 6"},
      {"CausalConv1d", [](Case& c) { c.inputs.clear(); }, "expected 5 inputs (x, weight, bias, past, seq_lens), got 0"},
      {"Linear", [](Case& c) { c.inputs.insert(c.inputs.end(), 40, "x"); }, "expected 7 inputs"},
      {"SelectiveScan", [](Case& c) { c.inputs.insert(c.inputs.end(), 40, "past"); }, "expected 10 inputs"},
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
       "attribute 'scale' must be a finite number of at least 0, got 'big'"},
      {"RmsNorm", [](Case& c) { c.attributes = {{"wide", 2}}; },
       "attribute 'wide' must be an integer of at least 0 and at most 1, got 2"},
      {"RmsNorm", [](Case& c) { c.attributes = {{"wide", 0}}; }, "input 'residual' must be float16 as input 'x' is",
       true},
      {"RmsNorm", [](Case& c) { c.arrays["residual"].type = 'T'; }, "input 'residual' must be float32, got float16"},
      {"RmsNorm", [](Case& c) { c.attributes = {{"outputs", "sum"}}; },
       "attribute 'outputs' must name output 'y' in its place, got 'sum'"},
      {"RmsNorm", [](Case& c) { c.attributes = {{"outputs", "y,total"}}; }, "attribute 'outputs' names 'total'"},
      {"CausalConv1d", [](Case& c) { c.attributes = {{"x_at", 4}}; },
       "input 'x' must be [B, L, W] with W of at least 28, where its window ends, got [?, ?, 24]"},
      {"CausalConv1d", [](Case& c) { c.attributes = {{"x_at", -1}}; }, "attribute 'x_at' must be an integer of at"},
      {"CausalConv1d", [](Case& c) { c.attributes = {{"weight_at", 0}}; }, "there is no attribute 'weight_at'"},
      {"CausalConv1d", [](Case& c) { c.attributes = {{"D", 25}}; },
       "input 'x' must be [B, L, D=25], got [?, ?, 24]; D is 25 by attribute 'D'"},
      {"SelectiveScan", [](Case& c) { c.attributes = {{"B_at", 0}}; }, "input 'B' must be [B, L, W], got [?, ?, 2, 16]"},
      {"SelectiveScan",
       [](Case& c) {
         c.attributes = {{"B_at", 0}, {"C_at", 0}};
         for (const std::string name : {"B", "C"}) c.arrays[name] = widened(c.arrays[name], 0, 32);
       },
       "attribute 'G' must say what G is: input 'B', which has it, is a window of another tensor"},
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

// Whether some step of a build refuses the call. Where the interface cannot say so, no format may be supported then.
bool refuses(const Library& library, const Case& call) {
  const auto plugin = library.create(call, "");
  if (!plugin) return true;
  Dimensions dimensions;
  ExprBuilder builder;
  std::vector<DataType> types;
  std::vector<nvinfer1::DimsExprs> shapes;
  for (const std::string& name : call.inputs) {
    const PluginTensorDesc desc = describe(call.arrays.at(name), DataType::kHALF, false);
    types.push_back(desc.type);
    shapes.push_back(dimensions.make(desc.dims));
  }
  const int inputs = int(types.size()), outputs = plugin->output_count();
  const bool refused = !plugin->output_types(types, outputs) || !plugin->output_shapes(shapes, outputs, builder);
  const std::vector<nvinfer1::DynamicPluginTensorDesc> tensors = described(call, DataType::kHALF);
  bool supported = false;
  for (int i = 0; i < int(tensors.size()); ++i) supported = supported || plugin->supports(i, tensors, inputs);
  return refused && !(kIsV2 && supported);
}

}  // namespace

void check_refusals(const Library& library) {
  for (const Refusal& refusal : refusals()) {
    if (kIsV2 && refusal.since_v3) continue;
    for (const Case& original : cases()) {
      if (original.op != refusal.op || original.label != "every input, prefill") continue;
      Case call = answered(original, DataType::kHALF);
      refusal.spoil(call);
      const bool refused = refuses(library, call);
      const std::string message = take_log();
      expect(refused && message.find(refusal.message) != std::string::npos, "refused: " + refusal.message, message);
      expect(message.find('\n') == std::string::npos, "refused, and told once: " + refusal.message, message);
    }
  }
}
