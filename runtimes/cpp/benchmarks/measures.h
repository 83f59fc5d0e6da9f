// What is measured of the library on TensorRT, each as JSON. Times in seconds.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>

#include "trt/engine.h"

namespace seqexport {

struct Measured {
  std::shared_ptr<const trt::TrtEngine> engine;
  size_t steps, prompt, sessions;  // how many tokens are timed one by one, and read at once; sessions opened and closed
};

// One token: the bare engine under a CUDA graph, a session's step, and a token that is chosen and read.
nlohmann::ordered_json decode(const Measured& of);
// Two sessions that take turns, token by token: what that costs, and whether they say what they say one after the other.
nlohmann::ordered_json switching(const Measured& of);
// A session's states to the host and back, beside page-locked copies; a whole save, restore and rewind; and the prompt that
// they spare.
nlohmann::ordered_json disk(const Measured& of);
// Memory while sessions are opened, used and closed.
nlohmann::ordered_json flat(const Measured& of);

}  // namespace seqexport
