// What the cases of all ops share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"

using seqexport::cpu::Kernels;
using seqexport::cpu::Pool;
using Doubles = std::vector<double>;

// Elements of type `dtype` in a block of exactly their size; NaN until they are filled.
class Tensor {
 public:
  Tensor(int dtype, size_t count);
  void normal(double scale = 1, double shift = 0);
  void copy(const Tensor& other);
  double operator[](size_t i) const;
  void set(size_t i, double value);
  size_t size() const { return count_; }
  void* data(size_t at = 0) const { return data_.get() + at * bytes(); }

 private:
  size_t bytes() const { return dtype_ == SEQEXPORT_FLOAT32 ? 4 : 2; }

  int dtype_;
  size_t count_;
  std::unique_ptr<char[]> data_;
};

// Counts a failure and says so, unless ||result - truth|| <= bound * ||truth||.
void expect(const std::string& what, const Tensor& result, const Doubles& truth, double bound);

// A few roundings of the type.
double bound_of(int dtype);

// A row of the whole length, an empty one, and halves.
std::vector<int32_t> ragged(int batch, int length);

// CausalConv1d, SelectiveScan, SsdScan and CausalAttention, which keep states.
void run_sequence_cases(const Kernels& k, const Pool& pool, int dtype);

// Experts.
void run_experts_cases(const Kernels& k, const Pool& pool, int dtype);

// TopKRouter.
void run_router_cases(const Kernels& k, const Pool& pool, int dtype);

// Linear, RmsNorm, RotaryQueryKey, Embedding and LastToken, which keep none.
void run_token_cases(const Kernels& k, const Pool& pool, int dtype);
