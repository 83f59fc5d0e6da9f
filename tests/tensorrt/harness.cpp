// Drives a plugin library through IPluginV3 as TensorRT does, where no TensorRT is installed.
//
//   nvcc -std=c++17 -Xcompiler -rdynamic -isystem "$TENSORRT_INCLUDE_DIR" -o harness tests/tensorrt/*.cpp
//   ./harness libseqexport_tensorrt.so
//
// Both of TensorRT 10 or later. Prints a line for every check, and exits 1 if one failed. Without a GPU, launches are
// left out.
#include "harness.h"

#include <dlfcn.h>

#include <cstdio>
#include <stdexcept>

namespace {

Logger logger;
int failed = 0;

}  // namespace

// What the library looks for in the process: a TensorRT of the headers' version, with a logger and without a registry.
extern "C" {
__attribute__((visibility("default"))) int32_t getInferLibVersion() noexcept { return NV_TENSORRT_VERSION; }
__attribute__((visibility("default"))) nvinfer1::ILogger* getLogger() noexcept { return &logger; }
__attribute__((visibility("default"))) nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return nullptr; }
}

void expect(bool holds, const std::string& what, const std::string& detail) {
  failed += !holds;
  std::printf("%s: %s%s%s\n", holds ? "ok" : "FAILED", what.c_str(), detail.empty() ? "" : ": ", detail.c_str());
}

int failures() { return failed; }

std::string take_log() { return std::exchange(logger.last, ""); }

const char* type_name(DataType type) {
  return type == DataType::kFLOAT ? "float32" : type == DataType::kHALF ? "float16" : "bfloat16";
}

DataType data_type(char kind, DataType type) {
  return kind == 'I' ? DataType::kINT32 : kind == 'F' ? DataType::kFLOAT : type;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ",") + name;
  return text;
}

Plugin::Plugin(nvinfer1::IPluginV3* plugin) : self(plugin) {
  using Capability = nvinfer1::PluginCapabilityType;
  if (!plugin) return;
  core = static_cast<nvinfer1::IPluginV3OneCore*>(plugin->getCapabilityInterface(Capability::kCORE));
  build = static_cast<nvinfer1::v_1_0::IPluginV3OneBuild*>(plugin->getCapabilityInterface(Capability::kBUILD));
  runtime = static_cast<nvinfer1::IPluginV3OneRuntime*>(plugin->getCapabilityInterface(Capability::kRUNTIME));
}

Library::Library(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (!handle_) throw std::runtime_error(dlerror());
  using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&);
  const auto get = reinterpret_cast<GetCreators>(dlsym(handle_, "getCreators"));
  if (!get) throw std::runtime_error(path + " has no getCreators: it was built for TensorRT 8");
  int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* all = get(count);
  for (int i = 0; i < count; ++i) creators_.push_back(static_cast<nvinfer1::IPluginCreatorV3One*>(all[i]));
}

std::string Library::info() const {
  return reinterpret_cast<const char* (*)()>(dlsym(handle_, "seqexport_tensorrt_info"))();
}

std::vector<std::string> Library::names() const {
  std::vector<std::string> all;
  for (const auto* creator : creators_) all.push_back(creator->getPluginName());
  return all;
}

nvinfer1::IPluginCreatorV3One* Library::find(const std::string& op) const {
  for (auto* creator : creators_) {
    if (op == creator->getPluginName()) return creator;
  }
  throw std::runtime_error("the library has no " + op);
}

Plugin Library::create(const Case& call, const std::string& names) const {
  using Type = nvinfer1::PluginFieldType;
  std::vector<nvinfer1::PluginField> fields;
  for (const auto& [name, value] : call.attributes) {
    if (const auto* number = std::get_if<int32_t>(&value)) fields.emplace_back(name.c_str(), number, Type::kINT32, 1);
    if (const auto* number = std::get_if<float>(&value)) fields.emplace_back(name.c_str(), number, Type::kFLOAT32, 1);
    const auto* text = std::get_if<std::string>(&value);
    if (text) fields.emplace_back(name.c_str(), text->c_str(), Type::kCHAR, int32_t(text->size() + 1));
  }
  if (!names.empty()) fields.emplace_back("inputs", names.c_str(), Type::kCHAR, int32_t(names.size() + 1));
  const nvinfer1::PluginFieldCollection collection = {int32_t(fields.size()), fields.data()};
  return Plugin(find(call.op)->createPlugin("node", &collection, nvinfer1::TensorRTPhase::kBUILD));
}

Plugin Library::restore(const std::string& op, const nvinfer1::PluginFieldCollection* fields) const {
  return Plugin(find(op)->createPlugin("node", fields, nvinfer1::TensorRTPhase::kRUNTIME));
}

nvinfer1::PluginTensorDesc describe(const Array& array, DataType type, bool known) {
  nvinfer1::PluginTensorDesc desc = {};
  desc.type = data_type(array.type, type);
  desc.format = nvinfer1::TensorFormat::kLINEAR;
  desc.dims.nbDims = int32_t(array.shape.size());
  for (size_t i = 0; i < array.shape.size(); ++i) {
    const bool varies = i < array.axes.size() && std::string("BLS").find(array.axes[i]) != std::string::npos;
    desc.dims.d[i] = varies && !known ? -1 : array.shape[i];
  }
  return desc;
}

int main(int count, char** arguments) {
  if (count != 2) return std::fprintf(stderr, "usage: harness libseqexport_tensorrt.so\n"), 2;
  try {
    const Library library(arguments[1]);
    std::printf("%s\n", library.info().c_str());
    expect(joined(library.names()) ==
               "CausalAttention,CausalConv1d,Embedding,LastToken,Linear,RmsNorm,RotaryQueryKey,SelectiveScan",
           "the library's creators", joined(library.names()));
    for (const Case& call : cases()) {
      for (const DataType type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16}) check_build(library, call, type);
    }
    check_refusals(library);
    if (!check_launches(library)) std::printf("launches left out: no CUDA device\n");
  } catch (const std::exception& error) {
    expect(false, error.what());
  }
  std::printf("%d failed\n", failures());
  return failures() != 0;
}
