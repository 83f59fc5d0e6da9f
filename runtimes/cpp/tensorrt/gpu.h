// The GPU that an engine is built for.
#pragma once

#include <string>

namespace seqexport {

// Where TensorRT-RTX builds without one, for all that it knows: any.
struct Gpu {
  std::string name;
  std::string compute_capability;  // as 8.7; empty for any
};

}  // namespace seqexport
