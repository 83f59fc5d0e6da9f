// The plugin library as TensorRT sees it, by either plugin interface, and a line for every check.
#pragma once

#include <memory>
#include <optional>

#include "cases.h"
#include "fake_tensorrt.h"

using nvinfer1::DataType;
using nvinfer1::PluginTensorDesc;

constexpr bool kIsV2 = NV_TENSORRT_MAJOR == 8;

// What T may be.
#if NV_TENSORRT_MAJOR > 8
constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kHALF, DataType::kBF16};
#else
constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kHALF};
#endif

// Prints "ok: what" or "FAILED: what: detail".
void expect(bool holds, const std::string& what, const std::string& detail = "");
int failures();

// All that the library logged; empties it.
std::string take_log();

Registry& registry();

const char* type_name(DataType type);
// Of one element; T is `type`.
DataType data_type(char kind, DataType type);

// One plugin. What it refuses is none, or false.
class Plugin {
 public:
  virtual ~Plugin() = default;
  virtual std::string identity() const = 0;  // "namespace::name, version 1"
  virtual int output_count() const = 0;
  virtual std::optional<std::vector<DataType>> output_types(const std::vector<DataType>& inputs, int outputs) = 0;
  virtual std::optional<std::vector<nvinfer1::DimsExprs>> output_shapes(const std::vector<nvinfer1::DimsExprs>& inputs,
                                                                        int outputs,
                                                                        nvinfer1::IExprBuilder& builder) = 0;
  // `tensors` are inputs, then outputs.
  virtual bool supports(int position, const std::vector<nvinfer1::DynamicPluginTensorDesc>& tensors, int inputs) = 0;
  virtual bool configure(const std::vector<nvinfer1::DynamicPluginTensorDesc>& tensors, int inputs) = 0;
  virtual size_t workspace() const = 0;
  virtual std::string state() const = 0;
  // By every way that there is.
  virtual std::vector<std::unique_ptr<Plugin>> copies() const = 0;
  // Before the first launch, and when extents change.
  virtual bool take_shapes(const std::vector<PluginTensorDesc>& inputs,
                           const std::vector<PluginTensorDesc>& outputs) = 0;
  virtual bool enqueue(const std::vector<PluginTensorDesc>& inputs, const std::vector<PluginTensorDesc>& outputs,
                       const void* const* input_data, void* const* output_data, void* workspace,
                       cudaStream_t stream) = 0;
};

// Of one op of the library.
class Creator {
 public:
  virtual ~Creator() = default;
  virtual std::string name() const = 0;
  virtual const nvinfer1::PluginFieldCollection* fields() const = 0;
  // Null where it refuses. `fields` may be null.
  virtual std::unique_ptr<Plugin> create(const nvinfer1::PluginFieldCollection* fields) const = 0;
  virtual std::unique_ptr<Plugin> restore(const std::string& state) const = 0;
};

class Library {
 public:
  // Throws std::runtime_error where it cannot be loaded.
  explicit Library(const std::string& path);
  // The creators that it gives TensorRT; those that it registered by itself are then deregistered.
  void take_creators();
  // `names` is the attribute `inputs`; empty for none.
  std::unique_ptr<Plugin> create(const Case& call, const std::string& names) const;
  std::unique_ptr<Plugin> restore(const std::string& op, const std::string& state) const;
  const std::vector<std::unique_ptr<Creator>>& creators() const { return creators_; }
  // What a function of its own says.
  std::string ask(const char* function) const;

 private:
  const Creator& find(const std::string& op) const;
  void* symbol(const char* name) const;
  void* handle_;
  std::vector<std::unique_ptr<Creator>> creators_;
};

std::vector<std::unique_ptr<Creator>> wrapped(CreatorInterface* const* creators, int count);

std::string joined(const std::vector<std::string>& names);

// How a tensor of the case is described: with all of its extents, or at build time.
PluginTensorDesc describe(const Array& array, DataType type, bool known);
// Inputs, then outputs, at build time.
std::vector<nvinfer1::DynamicPluginTensorDesc> described(const Case& call, DataType type);

// The values rounded to what the tensors hold, and the outputs' beside them.
Case answered(const Case& call, DataType type);

void check_build(const Library& library, const Case& call, DataType type);
void check_refusals(const Library& library);
void check_fields(const Library& library);
// Loads the library beside a plugin of others that has one of its names.
Library load_beside_another(const std::string& path);
// False where there is no GPU.
bool check_launches(const Library& library);
