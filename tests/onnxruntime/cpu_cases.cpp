// Runs every CPU kernel of every instruction set that the processor has over hard shapes, against the same recurrences
// in double, on several threads with small stacks. The tensors lie in blocks of exactly their size, so that
// AddressSanitizer sees any read or write outside of them. Prints one line for each instruction set; exits 1 where an
// error is too large.
#include "cpu_cases.h"

#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>

namespace {

std::mt19937 generator(0);
int failures = 0;

double half_value(uint16_t h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(fraction, -24)
                                           : std::ldexp(1024 + fraction, exponent - 25);
  return h & 0x8000 ? -magnitude : magnitude;
}

// Towards zero; inputs need no better.
uint16_t half_bits(double value) {
  if (std::isnan(value)) return 0x7e00;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  if (magnitude < std::ldexp(1, -14)) return sign | uint16_t(std::ldexp(magnitude, 24));
  int exponent;
  const double fraction = std::frexp(magnitude, &exponent);
  return sign | uint16_t((exponent + 14) << 10) | uint16_t(std::ldexp(fraction, 11) - 1024);
}

constexpr size_t kStackBytes = 128 << 10;

// A thread of a small stack, as embedded hosts have them.
pthread_t started(std::function<void()>& work) {
  pthread_attr_t small;
  pthread_t thread;
  const auto body = [](void* given) -> void* { return (*static_cast<std::function<void()>*>(given))(), nullptr; };
  if (pthread_attr_init(&small) || pthread_attr_setstacksize(&small, kStackBytes) ||
      pthread_create(&thread, &small, body, &work))
    std::abort();
  pthread_attr_destroy(&small);
  return thread;
}

void threads_run(void* threads, size_t count, void (*task)(void*, size_t), void* data) {
  const size_t number = *static_cast<size_t*>(threads);
  std::vector<std::function<void()>> work(number);
  std::vector<pthread_t> workers;
  for (size_t w = 0; w < number; ++w) {
    work[w] = [=] {
      for (size_t i = w; i < count; i += number) task(data, i);
    };
    workers.push_back(started(work[w]));
  }
  for (const pthread_t worker : workers) pthread_join(worker, nullptr);
}

void run_all(const Kernels& k, const Pool& pool) {
  for (int dtype : {SEQEXPORT_FLOAT32, SEQEXPORT_FLOAT16, SEQEXPORT_BFLOAT16}) {
    run_sequence_cases(k, pool, dtype);
    run_experts_cases(k, pool, dtype);
    run_router_cases(k, pool, dtype);
    run_token_cases(k, pool, dtype);
  }
}

}  // namespace

Tensor::Tensor(int dtype, size_t count) : dtype_(dtype), count_(count) {
  data_.reset(new char[std::max<size_t>(1, count * bytes())]);
  for (size_t i = 0; i < count; ++i) set(i, NAN);
}

void Tensor::normal(double scale, double shift) {
  std::normal_distribution<double> draw;
  for (size_t i = 0; i < count_; ++i) set(i, draw(generator) * scale + shift);
}

void Tensor::copy(const Tensor& other) { std::memcpy(data_.get(), other.data_.get(), count_ * bytes()); }

double Tensor::operator[](size_t i) const {
  uint32_t wide;
  uint16_t half;
  if (dtype_ == SEQEXPORT_FLOAT32) {
    std::memcpy(&wide, &data_[i * 4], 4);
  } else {
    std::memcpy(&half, &data_[i * 2], 2);
    if (dtype_ == SEQEXPORT_FLOAT16) return half_value(half);
    wide = uint32_t(half) << 16;
  }
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

void Tensor::set(size_t i, double value) {
  const float narrow = float(value);
  uint32_t wide;
  std::memcpy(&wide, &narrow, 4);
  if (dtype_ == SEQEXPORT_FLOAT32) {
    std::memcpy(&data_[i * 4], &wide, 4);
    return;
  }
  const uint16_t half = dtype_ == SEQEXPORT_FLOAT16 ? half_bits(value) : uint16_t(wide >> 16);
  std::memcpy(&data_[i * 2], &half, 2);
}

void expect(const std::string& what, const Tensor& result, const Doubles& truth, double bound) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    error += (result[i] - truth[i]) * (result[i] - truth[i]);
    norm += truth[i] * truth[i];
  }
  const double relative = std::sqrt(error / std::max(norm, 1e-30));
  if (relative <= bound) return;
  std::printf("%s: error %.2e, allowed %.2e\n", what.c_str(), relative, bound);
  ++failures;
}

double bound_of(int dtype) { return dtype == SEQEXPORT_FLOAT32 ? 1e-6 : dtype == SEQEXPORT_FLOAT16 ? 6e-4 : 5e-3; }

std::vector<int32_t> ragged(int batch, int length) {
  std::vector<int32_t> lens(batch);
  for (int b = 0; b < batch; ++b) lens[b] = b == 0 ? length : b == 1 ? 0 : length / 2;
  return lens;
}

int main() {
  size_t threads = 3;
  for (const Kernels* k = seqexport::cpu::all_kernels(); k->instruction_set; ++k) {
    if (!k->supported()) {
      std::printf("%s: not on this processor\n", k->instruction_set);
      continue;
    }
    const int before = failures;
    std::function<void()> cases = [&] { run_all(*k, {threads_run, &threads}); };  // short ones run on the caller
    pthread_join(started(cases), nullptr);
    std::printf("%s: %s\n", k->instruction_set, failures == before ? "passed" : "FAILED");
  }
  return failures ? 1 : 0;
}
