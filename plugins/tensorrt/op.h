// What an op is to TensorRT, said once for every version of its plugin interface. Needs no TensorRT header.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "dtype.h"

namespace seqexport::tensorrt {

constexpr int kMaxInputs = 10, kMaxOutputs = 3, kMaxSizes = 8, kMaxAttributes = 4;

enum class Type {
  kFloat32 = SEQEXPORT_FLOAT32,
  kFloat16 = SEQEXPORT_FLOAT16,
  kBfloat16 = SEQEXPORT_BFLOAT16,
  kInt32,
  kInt64,
  kInt8,
  kBool,
  kOther
};

// The values of an op's sizes, in the order of Op::sizes; -1 where a size is not known yet.
struct Sizes {
  std::array<int64_t, kMaxSizes> values;
  Sizes() { values.fill(-1); }
  int64_t operator[](int size) const { return values[size_t(size)]; }
  int64_t& operator[](int size) { return values[size_t(size)]; }
};

struct SizeRange {
  const char* name;
  int64_t low, high;
};

// Length of one axis: a size of the op and a constant, as in K - 1; of an output's, a constant alone as well.
struct Axis {
  static constexpr int kNone = -1;
  int size;
  int offset;
  Axis(int size, int offset = 0) : size(size), offset(offset) {}
  static Axis constant(int length) { return {kNone, length}; }
};

struct Tensor {
  const char* name;
  char type;  // 'T': float32, float16 or bfloat16, the same throughout a node; 'F': float32; 'I': int32;
              // 'S': F where the attribute kWideAttribute is 1, else T
  std::vector<Axis> shape;
  bool optional = false;
  const char* needs = nullptr;  // an input: one that has this tensor with it; an output is there where that input is
};

constexpr char kWideAttribute[] = "wide";

// A number, or one of a few words, which is then held as its index among the choices.
struct Attribute {
  enum Kind { kInt, kFloat, kChoice };
  const char* name;
  Kind kind;
  double fallback, low, high;
  std::vector<const char*> choices = {};
};

// One launch. Pointers are device pointers; those of absent tensors are null.
struct Call {
  Type type;  // T
  Sizes sizes;
  std::array<double, kMaxAttributes> attributes;
  std::array<const void*, kMaxInputs> inputs;
  std::array<void*, kMaxOutputs> outputs;
  void* workspace;
  size_t workspace_bytes;
  cudaStream_t stream;

  int32_t dtype() const { return int32_t(type); }
  int32_t size(int index) const { return int32_t(sizes[index]); }
  template <typename T = void>
  const T* input(int index) const {
    return static_cast<const T*>(inputs[size_t(index)]);
  }
  template <typename T = void>
  T* output(int index) const {
    return static_cast<T*>(outputs[size_t(index)]);
  }
  double attribute(int index) const { return attributes[size_t(index)]; }
};

// A node that an op cannot run; what() says what was expected, what came, and of which input or attribute.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// For kernels that split their work where the batch is too small for the device. They are right with any size; none of
// the devices there are asks for more than this, which TensorRT shares among layers.
constexpr size_t kSplitBytes = size_t(8) << 20;

// Tokens of a batch, which some kernels number in 32 bits.
constexpr int64_t kMaxTokens = 1 << 30;

// Throws Refusal for more tokens than those; either size may be unknown.
inline void require_tokens(int64_t batch, int64_t length) {
  if (batch < 0 || length < 0 || batch * length <= kMaxTokens) return;
  throw Refusal("B * L (tokens) must be at most " + std::to_string(kMaxTokens) + ", got " +
                std::to_string(batch * length));
}

// Never destroyed: a program's global engine may still run when the statics of this library are gone.
struct Op {
  const char* name;
  std::vector<SizeRange> sizes;
  std::vector<Tensor> inputs, outputs;  // an output's axes are constant, or stand in some input that is there with it
  std::vector<Attribute> attributes;
  // Throws Refusal for sizes that do not go together; any of them may be unknown.
  void (*check)(const Sizes&);
  size_t workspace;  // bytes for any call on any device: neither build nor launch is told what the other was
  cudaError_t (*launch)(const Call&);
};

}  // namespace seqexport::tensorrt
