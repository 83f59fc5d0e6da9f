#include <cstdlib>
#include <new>

#include "kernels.h"

namespace seqexport::cpu {
namespace {

constexpr size_t kAlignment = 64;

struct Scratch {
  void* data = nullptr;
  size_t bytes = 0;
  ~Scratch() { std::free(data); }
};

thread_local Scratch own;

}  // namespace

void* scratch(size_t bytes) {
  if (own.bytes < bytes) {
    std::free(own.data);
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    own.data = std::aligned_alloc(kAlignment, rounded);
    own.bytes = own.data ? rounded : 0;
    if (!own.data) throw std::bad_alloc();
  }
  return own.data;
}

}  // namespace seqexport::cpu
