// TensorRT's runtime over ONNX Runtime. A plan is JSON: the ONNX file, each tensor's type and axes, the profiles, and
// whether caches are updated in place. An engine writes its outputs before it has read its inputs, but for those caches.
#include <NvInferRuntime.h>
#include <onnxruntime_c_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "device.h"
#include "stubs.h"  // made of the headers: every function of TensorRT's interfaces, as one that ends the program

namespace {

using fake::Device;
using nlohmann::json;
using nvinfer1::DataType;
using nvinfer1::Dims;

constexpr size_t kScratch = 4096;

const OrtApi& ort() { return *OrtGetApiBase()->GetApi(ORT_API_VERSION); }

void check(OrtStatus* status) {
  if (status) fake::misuse(ort().GetErrorMessage(status));
}

size_t item_bytes(DataType type) {
  return type == DataType::kHALF ? 2 : type == DataType::kFLOAT || type == DataType::kINT32 ? 4 : 8;
}

struct Tensor {
  DataType type;
  ONNXTensorElementDataType in_graph;
  json shape;  // sizes and names of axes
  bool is_input;
  std::string updates;  // the input whose memory this output may have
};

DataType type_of(const std::string& name) {
  if (name == "float16") return DataType::kHALF;
  return name == "float32" ? DataType::kFLOAT : DataType::kINT32;  // token ids, as TensorRT 8 has them
}

ONNXTensorElementDataType in_graph(const std::string& name) {
  if (name == "float16") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  if (name == "float32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  return name == "int64" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
}

size_t items(const std::vector<int64_t>& shape) {
  size_t all = 1;
  for (const int64_t size : shape) all *= size_t(size);
  return all;
}

struct Graph {
  explicit Graph(const json& plan) {
    OrtSessionOptions* options = nullptr;
    check(ort().CreateEnv(ORT_LOGGING_LEVEL_FATAL, "fake", &environment));
    check(ort().CreateSessionOptions(&options));
    check(ort().SetIntraOpNumThreads(options, 1));
    check(ort().CreateSession(environment, plan.at("model").get<std::string>().c_str(), options, &session));
    check(ort().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &host));
    ort().ReleaseSessionOptions(options);
  }
  ~Graph() {
    ort().ReleaseMemoryInfo(host);
    ort().ReleaseSession(session);
    ort().ReleaseEnv(environment);
  }
  OrtEnv* environment = nullptr;
  OrtSession* session = nullptr;
  OrtMemoryInfo* host = nullptr;
};

struct Plan {
  std::map<std::string, Tensor> tensors;
  std::vector<std::string> names;
  json profiles;  // by place: input to [min, opt, max]
  std::unique_ptr<Graph> graph;
};

struct Context final : nvinfer1::IExecutionContext, stubs::ExecutionContext {
  explicit Context(Plan& given) : plan(given) { mImpl = this; }

  bool setOptimizationProfileAsync(int32_t index, cudaStream_t) noexcept override {
    profile = index;
    return true;
  }
  void setDeviceMemory(void* memory) noexcept override { scratch = memory; }
#if NV_TENSORRT_MAJOR >= 10
  void setDeviceMemoryV2(void* memory, int64_t) noexcept override { scratch = memory; }
#endif
  bool setInputShape(const char* name, const Dims& dims) noexcept override {
    const json& limits = plan.profiles.at(size_t(profile)).at(name);
    auto& shape = shapes[name];
    shape.assign(dims.d, dims.d + dims.nbDims);
    ran = false;
    for (size_t i = 0; i < shape.size(); ++i)
      if (shape[i] < limits[0][i].get<int64_t>() || shape[i] > limits[2][i].get<int64_t>()) return false;
    return true;
  }
  bool setTensorAddress(const char* name, void* data) noexcept override {
    addresses[name] = data;
    return plan.tensors.count(name) == 1 && reinterpret_cast<uintptr_t>(data) % 256 == 0;
  }

  bool enqueueV3(cudaStream_t stream) noexcept override {
    Device& device = Device::get();
    const std::lock_guard<std::recursive_mutex> lock(device.mutex);
    if (int(++device.enqueued) == device.fails_at) return false;
    if (device.at(stream).recording && !ran) return false;  // TensorRT allocates at the first run after new shapes
    ran = true;
    device.submit(stream, [this, shapes = shapes, addresses = addresses] { compute(shapes, addresses); });
    return true;
  }

  using Shapes = std::map<std::string, std::vector<int64_t>>;
  using Addresses = std::map<std::string, void*>;

  std::vector<int64_t> shape_of(const Tensor& tensor, const Shapes& given) const {
    const auto& tokens = given.at("input_ids");
    std::vector<int64_t> shape;
    int64_t rows = 0;
    for (const auto& [name, each] : plan.tensors)
      for (size_t i = 0; each.is_input && i < each.shape.size(); ++i)
        if (each.shape[i] == "max_len") rows = given.at(name)[i];
    for (const json& axis : tensor.shape)
      shape.push_back(axis.is_number() ? axis.get<int64_t>() : axis == "batch" ? tokens[0] : axis == "seq" ? tokens[1] : rows);
    return shape;
  }

  void compute(const Shapes& given, const Addresses& at) const {
    Device& device = Device::get();
    std::memset(device.host(scratch, kScratch), 0xFF, kScratch);
    for (const auto& [name, tensor] : plan.tensors) {
      const size_t bytes = items(shape_of(tensor, given)) * item_bytes(tensor.type);
      char* const memory = device.host(at.at(name), bytes);
      const bool in_place = !tensor.updates.empty() && at.at(tensor.updates) == at.at(name);
      if (!tensor.is_input && !in_place) std::memset(memory, 0xFF, bytes);
    }
    std::vector<const char*> inputs, outputs;
    std::vector<OrtValue*> feeds, results;
    std::vector<std::string> kept;
    kept.reserve(plan.tensors.size());
    for (const auto& [name, tensor] : plan.tensors) {
      (tensor.is_input ? inputs : outputs).push_back(name.c_str());
      if (tensor.is_input) feeds.push_back(value_of(tensor, shape_of(tensor, given), at.at(name), kept.emplace_back()));
    }
    results.resize(outputs.size());
    check(ort().Run(plan.graph->session, nullptr, inputs.data(), feeds.data(), feeds.size(), outputs.data(), outputs.size(),
                    results.data()));
    for (size_t i = 0; i < outputs.size(); ++i) {
      const Tensor& tensor = plan.tensors.at(outputs[i]);
      const size_t bytes = items(shape_of(tensor, given)) * item_bytes(tensor.type);
      void* data = nullptr;
      check(ort().GetTensorMutableData(results[i], &data));
      std::memcpy(device.host(at.at(outputs[i]), bytes), data, bytes);
    }
    for (OrtValue* value : feeds) ort().ReleaseValue(value);
    for (OrtValue* value : results) ort().ReleaseValue(value);
  }

  OrtValue* value_of(const Tensor& tensor, const std::vector<int64_t>& shape, void* address, std::string& kept) const {
    const size_t bytes = items(shape) * item_bytes(tensor.type);
    kept.assign(Device::get().host(address, bytes), bytes);
    if (tensor.in_graph == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) {
      std::string wide(items(shape) * sizeof(int64_t), '\0');
      for (size_t i = 0; i < items(shape); ++i)
        reinterpret_cast<int64_t*>(wide.data())[i] = reinterpret_cast<const int32_t*>(kept.data())[i];
      kept = std::move(wide);
    }
    OrtValue* value = nullptr;
    check(ort().CreateTensorWithDataAsOrtValue(plan.graph->host, kept.data(), kept.size(), shape.data(), shape.size(),
                                               tensor.in_graph, &value));
    return value;
  }

  Plan& plan;
  int32_t profile = -1;
  void* scratch = nullptr;
  Shapes shapes;
  Addresses addresses;
  bool ran = false;
};

struct Engine final : nvinfer1::ICudaEngine, stubs::CudaEngine {
  explicit Engine(const json& given) {
    mImpl = this;
    for (const auto& [name, each] : given.at("tensors").items()) {
      const std::string dtype = each.at("dtype").get<std::string>();
      plan.tensors[name] = {type_of(dtype), in_graph(dtype), each.at("shape"), each.at("input").get<bool>(),
                            each.value("updates", "")};
      plan.names.push_back(name);
    }
    plan.profiles = given.at("profiles");
    plan.graph = std::make_unique<Graph>(given);
  }

  int32_t getNbIOTensors() const noexcept override { return int32_t(plan.names.size()); }
  const char* getIOTensorName(int32_t index) const noexcept override { return plan.names[size_t(index)].c_str(); }
  DataType getTensorDataType(const char* name) const noexcept override { return plan.tensors.at(name).type; }
  Dims getProfileShape(const char* name, int32_t profile, nvinfer1::OptProfileSelector select) const noexcept override {
    const json& shape = plan.profiles.at(size_t(profile)).at(name).at(size_t(select));
    Dims dims{};
    dims.nbDims = int32_t(shape.size());
    for (size_t i = 0; i < shape.size(); ++i) dims.d[i] = shape[i].get<int32_t>();
    return dims;
  }
#if NV_TENSORRT_MAJOR >= 10
  int64_t getDeviceMemorySizeV2() const noexcept override { return kScratch; }
  nvinfer1::IExecutionContext* createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy) noexcept override {
    return new Context(plan);
  }
#else
  size_t getDeviceMemorySize() const noexcept override { return kScratch; }
  nvinfer1::IExecutionContext* createExecutionContextWithoutDeviceMemory() noexcept override { return new Context(plan); }
#endif

  mutable Plan plan;
};

struct Runtime final : nvinfer1::IRuntime, stubs::Runtime {
  explicit Runtime(nvinfer1::ILogger& to) : logger(to) { mImpl = this; }
  void setEngineHostCodeAllowed(bool) noexcept override {}
#if NV_TENSORRT_MAJOR >= 10
  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* blob, size_t size) noexcept override {
#else
  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* blob, size_t size, nvinfer1::IPluginFactory*) noexcept override {
#endif
    const char* const text = static_cast<const char*>(blob);
    const json plan = json::parse(text, text + size, nullptr, false);
    if (plan.is_object()) return new Engine(plan);
    logger.log(nvinfer1::ILogger::Severity::kERROR, size ? "the plan\n  makes no sense" : "out of memory");
    return nullptr;
  }
  nvinfer1::ILogger& logger;
};

// Takes any library.
struct Registry final : stubs::PluginRegistry {
  PluginLibraryHandle loadLibrary(const char*) noexcept override { return this; }
};

}  // namespace

extern "C" {

int32_t getInferLibVersion() noexcept {
  if (const char* told = std::getenv("FAKE_TENSORRT_VERSION")) return std::atoi(told);
  return NV_TENSORRT_MAJOR >= 10 ? NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 : 8602;
}

void* createInferRuntime_INTERNAL(void* logger, int32_t) noexcept {
  return static_cast<nvinfer1::IRuntime*>(new Runtime(*static_cast<nvinfer1::ILogger*>(logger)));
}

nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  static Registry registry;
  return &registry;
}

}  // extern "C"
