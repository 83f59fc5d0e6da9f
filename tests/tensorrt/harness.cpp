// Drives a plugin library as TensorRT does, where no TensorRT is installed: through IPluginV3, or IPluginV2DynamicExt
// before TensorRT 10.
//
//   nvcc -std=c++17 -Xcompiler -rdynamic -isystem "$TENSORRT_INCLUDE_DIR" -o harness tests/tensorrt/*.cpp
//   ./harness libseqexport_tensorrt.so [--no-launches]
//
// Both of one TensorRT. Prints a line for every check, and exits 1 if one failed. Without a GPU, launches are left out.
#include "harness.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace {

Logger logger;
int failed = 0;

}  // namespace

Registry& registry() {
  static Registry all;
  return all;
}

// What the library looks for in the process: a TensorRT of the headers' version.
extern "C" {
__attribute__((visibility("default"))) int32_t getInferLibVersion() noexcept { return NV_TENSORRT_VERSION; }
__attribute__((visibility("default"))) nvinfer1::ILogger* getLogger() noexcept { return &logger; }
__attribute__((visibility("default"))) nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return &registry(); }
}

void expect(bool holds, const std::string& what, const std::string& detail) {
  failed += !holds;
  std::printf("%s: %s%s%s\n", holds ? "ok" : "FAILED", what.c_str(), detail.empty() ? "" : ": ", detail.c_str());
}

int failures() { return failed; }

std::string take_log() {
  std::string said = std::exchange(logger.said, "");
  while (!said.empty() && said.back() == '\n') said.pop_back();
  return said;
}

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

Library::Library(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL)) {
  if (!handle_) throw std::runtime_error(dlerror());
}

void* Library::symbol(const char* name) const {
  void* found = dlsym(handle_, name);
  if (!found) throw std::runtime_error(std::string("the library has no ") + name + ": it is for another TensorRT");
  return found;
}

void Library::take_creators() {
  const char* name = kIsV2 ? "getPluginCreators" : "getCreators";
  const auto get = reinterpret_cast<CreatorInterface* const* (*)(int32_t&)>(symbol(name));
  int32_t count = 0;
  CreatorInterface* const* all = get(count);
  creators_ = wrapped(all, count);
}

std::string Library::ask(const char* function) const {
  return reinterpret_cast<const char* (*)()>(symbol(function))();
}

const Creator& Library::find(const std::string& op) const {
  for (const auto& creator : creators_) {
    if (op == creator->name()) return *creator;
  }
  throw std::runtime_error("the library has no " + op);
}

std::unique_ptr<Plugin> Library::create(const Case& call, const std::string& names) const {
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
  return find(call.op).create(&collection);
}

std::unique_ptr<Plugin> Library::restore(const std::string& op, const std::string& state) const {
  return find(op).restore(state);
}

PluginTensorDesc describe(const Array& array, DataType type, bool known) {
  PluginTensorDesc desc = {};
  desc.type = data_type(array.type, type);
  desc.format = nvinfer1::TensorFormat::kLINEAR;
  desc.dims.nbDims = int32_t(array.shape.size());
  for (size_t i = 0; i < array.shape.size(); ++i) {
    const bool varies = i < array.axes.size() && std::string("BLS").find(array.axes[i]) != std::string::npos;
    desc.dims.d[i] = varies && !known ? Extent(-1) : Extent(array.shape[i]);
  }
  return desc;
}

std::vector<nvinfer1::DynamicPluginTensorDesc> described(const Case& call, DataType type) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> all;
  for (const auto* names : {&call.inputs, &call.outputs}) {
    for (const std::string& name : *names) {
      nvinfer1::DynamicPluginTensorDesc tensor = {};
      tensor.desc = describe(call.arrays.at(name), type, false);
      tensor.min = tensor.max = describe(call.arrays.at(name), type, true).dims;
      all.push_back(tensor);
    }
  }
  return all;
}

int main(int count, char** arguments) {
  const bool launches = count == 2;
  if (!launches && (count != 3 || std::strcmp(arguments[2], "--no-launches") != 0)) {
    return std::fprintf(stderr, "usage: harness libseqexport_tensorrt.so [--no-launches]\n"), 2;
  }
  try {
    const Library library = load_beside_another(arguments[1]);
    std::printf("%s\n", library.ask("seqexport_tensorrt_info").c_str());
    check_fields(library);
    for (const Case& call : cases()) {
      for (const DataType type : kTypes) check_build(library, call, type);
    }
    check_refusals(library);
    if (launches && !check_launches(library)) std::printf("launches left out: no CUDA device\n");
  } catch (const std::exception& error) {
    expect(false, error.what());
  }
  std::printf("%d failed\n", failures());
  return failures() != 0;
}
