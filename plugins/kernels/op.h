// What an op is, told once beside its kernels: its sizes, tensors and attributes, and the field of its params struct
// that each fills. The C interface and the adapters to TensorRT and ONNX Runtime read it, and know no op by name. Knows
// no framework, nor CUDA.
#pragma once

#include <array>
#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "dtype.h"

namespace seqexport {

enum class Device { kCpu, kCuda };

// A call that an op cannot run; what() says what was expected, what came, and of which input, attribute or field.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A member of a params struct. FieldOf also says of which type it is, so that what needs another does not compile.
template <typename T>
struct FieldOf {
  const char* name;
  size_t offset;
};
#define SEQEXPORT_FIELD(Params, member) \
  ::seqexport::FieldOf<decltype(Params::member)> { #member, offsetof(Params, member) }

struct Field {
  enum Kind { kInt32, kInt64, kSize, kFloat, kPointer };
  const char* name = nullptr;  // null: there is none
  size_t offset = 0;
  Kind kind = kInt32;

  Field() = default;
  template <typename T>
  Field(FieldOf<T> field) : name(field.name), offset(field.offset) {
    static_assert(std::is_pointer_v<T> || std::is_arithmetic_v<T>, "a scalar or a pointer");
    kind = std::is_pointer_v<T>           ? kPointer
           : std::is_same_v<T, int32_t>   ? kInt32
           : std::is_same_v<T, int64_t>   ? kInt64
           : std::is_same_v<T, float>     ? kFloat
                                          : kSize;
  }
  explicit operator bool() const { return name != nullptr; }
  template <typename T>
  T& of(void* params) const {
    return *reinterpret_cast<T*>(static_cast<char*>(params) + offset);
  }
  template <typename T>
  T of(const void* params) const {
    return *reinterpret_cast<const T*>(static_cast<const char*>(params) + offset);
  }
};

// Most of what kernels count in 32 bits, with room for their arithmetic.
constexpr int64_t kMaxSize = 1 << 30;
// Blocks of a CUDA grid along y and z.
constexpr int64_t kMaxGrid = 65535;

struct Range {
  int64_t low = 1, high = kMaxSize;
};

// A size of the op, such as B, and the field that holds it.
struct Size {
  const char* name;
  Field field;  // none where the kernels know tokens alone (see Op::rows), or an attribute gives it
  Range cpu, cuda;

  Size(const char* name, FieldOf<int32_t> field, Range range = {}) : Size(name, field, range, range) {}
  Size(const char* name, FieldOf<int32_t> field, Range cpu, Range cuda)
      : name(name), field(field), cpu(cpu), cuda(cuda) {}
  explicit Size(const char* name) : name(name) {}
  const Range& range(Device device) const { return device == Device::kCpu ? cpu : cuda; }
};

constexpr size_t kMaxSizes = 8, kMaxInputs = 10, kMaxOutputs = 3, kMaxParamsBytes = 256;

// The values of an op's sizes, in the order of Op::sizes; -1 where a size is not known, as of an absent tensor.
struct Sizes {
  std::array<int64_t, kMaxSizes> values;
  // By place in Op::inputs, elements of a token of the tensor that an input is a window of; -1 where it is none.
  std::array<int64_t, kMaxInputs> widths;
  Sizes() { values.fill(-1), widths.fill(-1); }
  int64_t operator[](int size) const { return values[size_t(size)]; }
  int64_t& operator[](int size) { return values[size_t(size)]; }
};

// Length of one axis: a size of the op and a constant, as in K - 1; of an output's, a constant alone as well.
struct Axis {
  static constexpr int kNone = -1;
  int size;
  int offset;
  Axis(int size, int offset = 0) : size(size), offset(offset) {}
  static Axis constant(int length) { return {kNone, length}; }
  bool operator==(const Axis& other) const { return size == other.size && offset == other.offset; }
  // -1 where its size is not known.
  int64_t length(const Sizes& sizes) const {
    if (size == kNone) return offset;
    return sizes[size] < 0 ? -1 : sizes[size] + offset;
  }
};

struct Tensor {
  const char* name;
  Field field;  // a pointer
  char type;    // 'T': float32, float16 or bfloat16, the same throughout a call; 'F': float32; 'I': int32;
                // 'S': F where the attribute kWideAttribute is 1, else T
  std::vector<Axis> axes;
  bool is_optional = false;     // of an output: the kernels take null
  const char* needs = nullptr;  // an input: one that has this tensor with it; an output is there where that input is
  Field stride;                 // elements between tokens, where the kernels read tokens that lie apart: such an input
                                // may be a window of a wider tensor, see node.h

  template <typename T>
  Tensor(FieldOf<T*> field, char type, std::vector<Axis> axes)
      : name(field.name), field(field), type(type), axes(std::move(axes)) {}
  Tensor optional(const char* with = nullptr) const {
    Tensor copy = *this;
    copy.is_optional = true, copy.needs = with;
    return copy;
  }
  Tensor strided(FieldOf<int64_t> by) const {
    Tensor copy = *this;
    copy.stride = by;
    return copy;
  }
};

constexpr char kWideAttribute[] = "wide";

// A number, or one of a few words, which is then held as its index among the choices.
struct Attribute {
  enum Kind { kInt, kFloat, kChoice };
  const char* name;
  Field field;
  Kind kind;
  double fallback, low, high;
  std::vector<const char*> choices = {};
  int root_of = Axis::kNone;  // a size: 0 stands for 1 / sqrt of it, which the params then hold
  int size = Axis::kNone;     // one that no input has, and that this attribute is

  Attribute(FieldOf<int32_t> field, int fallback, int64_t low, int64_t high)
      : name(field.name), field(field), kind(kInt), fallback(fallback), low(double(low)), high(double(high)) {}
  Attribute(FieldOf<float> field, double fallback)  // finite, 0 or more
      : name(field.name), field(field), kind(kFloat), fallback(fallback), low(0), high(FLT_MAX) {}
  Attribute(FieldOf<int32_t> field, std::vector<const char*> choices)  // the first where a node says nothing
      : name(field.name), field(field), kind(kChoice), fallback(0), low(0), high(double(choices.size() - 1)),
        choices(std::move(choices)) {}
  Attribute inverse_root_at_0(int size) const {
    Attribute copy = *this;
    copy.root_of = size;
    return copy;
  }
  Attribute gives_size(int which) const {
    Attribute copy = *this;
    copy.size = which;
    return copy;
  }
};

// What callers of the C interface may choose, and nodes leave to the kernels, which is 0.
struct Tuning {
  Field field;
  int64_t high;
  Tuning(FieldOf<int32_t> field, int64_t high) : field(field), high(high) {}
};

// Scratch memory of the CUDA kernels: right with any size, or any from `least` on, and with fewer bytes slower.
struct Workspace {
  Field data, bytes;
  size_t most = 0;                                // for any call on any device there is, for who knows neither
  size_t (*wanted)(const void* params) = nullptr;  // on the current device; null without CUDA
  size_t (*least)(const void* params) = nullptr;   // null: none is needed
  Workspace() = default;
  Workspace(FieldOf<void*> data, FieldOf<size_t> bytes, size_t most, size_t (*wanted)(const void*))
      : data(data), bytes(bytes), most(most), wanted(wanted) {}
};

// For kernels that split their work where the batch is too small for the device. None of the devices there are asks for
// more than this, which TensorRT shares among layers.
constexpr size_t kSplitBytes = size_t(8) << 20;

// A function of a params struct as one of a pointer to any: erased<&workspace_of>.
template <auto kFunction>
struct Erased;
template <typename Params, typename Result, typename... Others, Result (*kFunction)(const Params&, Others...)>
struct Erased<kFunction> {
  static Result call(const void* params, Others... others) {
    return kFunction(*static_cast<const Params*>(params), others...);
  }
};
template <auto kFunction>
constexpr auto erased = &Erased<kFunction>::call;

// Functions of CUDA are named in a description where it is compiled for CUDA.
#ifdef SEQEXPORT_CPU_ONLY
#define SEQEXPORT_IF_CUDA(function) nullptr
#else
#define SEQEXPORT_IF_CUDA(function) ::seqexport::erased<&function>
#endif

struct Op {
  const char* name;
  size_t params_bytes;  // of a struct that begins with dtype (int32, SeqexportDataType: T)
  std::vector<Size> sizes = {};
  Field rows = {};  // B * L, the first two sizes, where the kernels count tokens
  std::vector<Tensor> inputs = {}, outputs = {};
  std::vector<Attribute> attributes = {};
  std::vector<Tuning> tuning = {};
  Workspace workspace = {};
  // Each may be null. Refuses sizes that do not go together; any of them may be unknown.
  void (*check)(const Sizes&) = nullptr;
  // Refuses params that do not go together; on the CPU it may read the tensors.
  void (*check_params)(const void* params, Device) = nullptr;

  // By op_list.h:
  const char* stem = nullptr;
  // Queues the kernels on a cudaStream_t, and gives a cudaError_t; null where there are none.
  int (*launch)(const void* params, void* stream) = nullptr;
};

// In the order of op_list.h. Never destroyed: a program's global session may still run when this library's statics are
// gone.
const std::vector<Op>& ops();

// Why a launch failed, from what Op::launch gave.
std::string launch_fault(int error);

// JSON of all ops: what this file says of them. Never destroyed.
const char* ops_description();

}  // namespace seqexport
