#include "backend.h"

#include <new>

#include "error.h"

namespace seqexport {

size_t item_bytes(const std::string& dtype) {
  if (dtype == "float32") return 4;
  if (dtype == "float16" || dtype == "bfloat16") return 2;
  throw UserError("states of " + dtype + ": expected float32, float16 or bfloat16; upgrade seqexport");
}

Layout::Layout(const State& state, size_t batch) : row_bytes(item_bytes(state.dtype)), grows(state.grows()) {
  bool after_rows = !grows;
  for (const Axis& axis : state.shape) {
    if (axis.name == "max_len") {
      after_rows = true;
      continue;
    }
    if (!axis.fixed() && axis.name != "batch")
      throw UserError("state " + state.past + ": nothing says how large its axis " + axis.name + " is");
    size_t& product = after_rows ? row_bytes : outer;
    if (__builtin_mul_overflow(product, axis.fixed() ? size_t(axis.size) : batch, &product)) throw std::bad_alloc();
  }
}

}  // namespace seqexport
