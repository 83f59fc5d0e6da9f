// An engine's one-token call as a CUDA graph, with nothing of a session around it.
#pragma once

#include "trt/engine.h"

namespace seqexport::trt {

class Bare {
 public:
  // One sequence that has one token, with room for `capacity`.
  Bare(const TrtEngine& engine, size_t capacity);

  // Launches the graph, without waiting.
  void launch() const;
  void wait() const;

 private:
  Executor& executor_;
  DeviceMemory memory_;
  PinnedMemory host_;
  GraphExec graph_;
};

}  // namespace seqexport::trt
