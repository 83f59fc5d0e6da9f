#include <cstdlib>
#include <new>

#include "kernels.h"

namespace seqexport::cpu {
namespace {

constexpr size_t kAlignment = 64;

struct Scratch {
  void* data = nullptr;
  size_t bytes = 0;
};

// It has no destructor: a session among a program's statics runs after what the main thread has at its end, and takes
// memory anew.
thread_local Scratch own;

struct FreedWithThread {
  ~FreedWithThread() {
    std::free(own.data);
    own = {};
  }
};

}  // namespace

void* scratch(size_t bytes) {
  if (own.bytes < bytes) {
    static thread_local FreedWithThread freed;
    std::free(own.data);
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    own.data = std::aligned_alloc(kAlignment, rounded);
    own.bytes = own.data ? rounded : 0;
    if (!own.data) throw std::bad_alloc();
  }
  return own.data;
}

}  // namespace seqexport::cpu
