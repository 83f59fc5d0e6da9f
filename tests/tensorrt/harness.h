// The plugin library as TensorRT sees it, and a line for every check.
#pragma once

#include <memory>

#include "cases.h"
#include "fake_tensorrt.h"

using nvinfer1::DataType;

// Prints "ok: what" or "FAILED: what: detail".
void expect(bool holds, const std::string& what, const std::string& detail = "");
int failures();

// What the library logged last; empties it.
std::string take_log();

const char* type_name(DataType type);
// Of one element; T is `type`.
DataType data_type(char kind, DataType type);

// A plugin with its three capabilities; empty where its creator refused it.
struct Plugin {
  std::unique_ptr<nvinfer1::IPluginV3> self;
  nvinfer1::IPluginV3OneCore* core = nullptr;
  nvinfer1::v_1_0::IPluginV3OneBuild* build = nullptr;
  nvinfer1::IPluginV3OneRuntime* runtime = nullptr;

  explicit Plugin(nvinfer1::IPluginV3* plugin);
  explicit operator bool() const { return self != nullptr; }
};

class Library {
 public:
  // Throws std::runtime_error where it cannot be loaded.
  explicit Library(const std::string& path);
  // `names` is the attribute `inputs`; empty for none.
  Plugin create(const Case& call, const std::string& names) const;
  Plugin restore(const std::string& op, const nvinfer1::PluginFieldCollection* fields) const;
  std::string info() const;
  std::vector<std::string> names() const;

 private:
  nvinfer1::IPluginCreatorV3One* find(const std::string& op) const;
  void* handle_;
  std::vector<nvinfer1::IPluginCreatorV3One*> creators_;
};

std::string joined(const std::vector<std::string>& names);

// How a tensor of the case is described: with all of its extents, or at build time.
nvinfer1::PluginTensorDesc describe(const Array& array, DataType type, bool known);

// The values rounded to what the tensors hold, and the outputs' beside them.
Case answered(const Case& call, DataType type);

void check_build(const Library& library, const Case& call, DataType type);
void check_refusals(const Library& library);
// False where there is no GPU.
bool check_launches(const Library& library);
