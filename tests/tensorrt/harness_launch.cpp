// Launches on the GPU, against the recurrences in float64.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "harness.h"

namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kGuardBytes = 256;
constexpr uint8_t kPoison = 0xff;  // NaN in every float type

template <typename T, typename Convert>
Bytes packed(const std::vector<double>& values, Convert convert) {
  Bytes bytes(values.size() * sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    const T value = convert(values[i]);
    std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
  }
  return bytes;
}

template <typename T, typename Convert>
std::vector<double> unpacked(const Bytes& bytes, Convert convert) {
  std::vector<double> values(bytes.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = double(convert(value));
  }
  return values;
}

Bytes to_bytes(const std::vector<double>& values, DataType type) {
  switch (type) {
    case DataType::kINT32: return packed<int32_t>(values, [](double x) { return int32_t(x); });
    case DataType::kHALF: return packed<__half>(values, [](double x) { return __float2half(float(x)); });
#if NV_TENSORRT_MAJOR > 8
    case DataType::kBF16: return packed<__nv_bfloat16>(values, [](double x) { return __float2bfloat16(float(x)); });
#endif
    default: return packed<float>(values, [](double x) { return float(x); });
  }
}

std::vector<double> to_values(const Bytes& bytes, DataType type) {
  switch (type) {
    case DataType::kINT32: return unpacked<int32_t>(bytes, [](int32_t x) { return x; });
    case DataType::kHALF: return unpacked<__half>(bytes, [](__half x) { return __half2float(x); });
#if NV_TENSORRT_MAJOR > 8
    case DataType::kBF16: return unpacked<__nv_bfloat16>(bytes, [](__nv_bfloat16 x) { return __bfloat162float(x); });
#endif
    default: return unpacked<float>(bytes, [](float x) { return x; });
  }
}

void require(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

// Device memory with a guard behind it, poisoned.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    require(cudaMalloc(&data_, bytes + kGuardBytes));
    require(cudaMemset(data_, kPoison, bytes + kGuardBytes));
  }
  explicit Buffer(const Bytes& content) : Buffer(content.size()) {
    require(cudaMemcpy(data_, content.data(), content.size(), cudaMemcpyHostToDevice));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cudaFree(data_); }

  void* data() const { return data_; }
  Bytes content() const {
    Bytes bytes(bytes_ + kGuardBytes);
    require(cudaMemcpy(bytes.data(), data_, bytes.size(), cudaMemcpyDeviceToHost));
    guard_is_whole_ = std::all_of(bytes.end() - kGuardBytes, bytes.end(), [](uint8_t x) { return x == kPoison; });
    bytes.resize(bytes_);
    return bytes;
  }
  bool guard_is_whole() const { return content(), guard_is_whole_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
  mutable bool guard_is_whole_ = false;
};

// Of the largest value: a few roundings to T for what is of type T, of float32 sums for the rest.
double tolerance(char kind, DataType type) {
  if (kind == 'F' || type == DataType::kFLOAT) return 3e-5;
  return type == DataType::kHALF ? 2e-3 : 1.6e-2;
}

void compare(const Array& wanted, const std::vector<double>& came, double bound, const std::string& what) {
  double largest = 1, error = 0;
  for (size_t i = 0; i < came.size(); ++i) {
    largest = std::max(largest, std::abs(wanted.values[i]));
    const double difference = std::abs(came[i] - wanted.values[i]);
    error = difference <= error ? error : difference;  // NaN stays
  }
  expect(error <= bound * largest, what, "error " + std::to_string(error / largest));
}

void check_launch(const Library& library, const Case& original, DataType type, bool in_place) {
  const Case call = answered(original, type);
  const std::string what = call.op + ", " + call.label + ", " + type_name(type) + (in_place ? ", in place" : "");
  const auto built = library.create(call, joined(call.inputs));
  const auto restored = library.restore(call.op, built->state());
  const auto plugin = std::move(restored->copies().back());
  std::map<std::string, std::unique_ptr<Buffer>> memory;
  std::vector<PluginTensorDesc> inputs, outputs;
  std::vector<const void*> input_data;
  std::vector<void*> output_data;
  for (const std::string& name : call.inputs) {
    inputs.push_back(describe(call.arrays.at(name), type, true));
    memory[name] = std::make_unique<Buffer>(to_bytes(call.arrays.at(name).values, inputs.back().type));
    input_data.push_back(memory[name]->data());
  }
  std::vector<std::string> places;
  for (const std::string& name : call.outputs) {
    outputs.push_back(describe(call.arrays.at(name), type, true));
    const bool shared = in_place && call.kept.count(name);
    places.push_back(shared ? call.kept.at(name) : name);
    const size_t bytes = to_bytes(call.arrays.at(name).values, outputs.back().type).size();
    if (!shared) memory[name] = std::make_unique<Buffer>(bytes);
    output_data.push_back(memory[places.back()]->data());
  }
  const Buffer workspace(built->workspace());
  expect(plugin->take_shapes(inputs, outputs), what + ": shapes taken", take_log());
  cudaStream_t stream;
  require(cudaStreamCreate(&stream));
  const bool launched =
      plugin->enqueue(inputs, outputs, input_data.data(), output_data.data(), workspace.data(), stream);
  require(cudaStreamSynchronize(stream));
  require(cudaStreamDestroy(stream));
  expect(launched, what + ": launched", take_log());
  for (size_t i = 0; i < call.outputs.size(); ++i) {
    const Array& wanted = call.arrays.at(call.outputs[i]);
    const std::vector<double> came = to_values(memory[places[i]]->content(), outputs[i].type);
    compare(wanted, came, tolerance(wanted.type, type), what + ": " + call.outputs[i]);
  }
  bool whole = workspace.guard_is_whole();
  for (const auto& [name, buffer] : memory) whole = whole && buffer->guard_is_whole();
  expect(whole, what + ": nothing written behind a tensor or the workspace");
}

}  // namespace

Case answered(const Case& call, DataType type) {
  Case rounded = call;
  for (auto& [name, array] : rounded.arrays) {
    array.values = to_values(to_bytes(array.values, data_type(array.type, type)), data_type(array.type, type));
  }
  rounded.answer(rounded.arrays, rounded);
  for (const auto& [name, place] : rounded.windows) {
    rounded.arrays[name] = widened(rounded.arrays[name], place.first, place.second);
  }
  return rounded;
}

bool check_launches(const Library& library) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return false;
  for (const Case& call : cases()) {
    for (const DataType type : kTypes) {
      for (const bool in_place : {false, true}) check_launch(library, call, type, in_place);
    }
  }
  return true;
}
