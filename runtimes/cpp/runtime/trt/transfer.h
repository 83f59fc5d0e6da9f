// Copies between the device and any memory of the host, by way of page-locked memory: as few and as large as can be.
#pragma once

#include <cstddef>
#include <vector>

#include "cuda.h"

namespace seqexport::trt {

struct Segment {
  char* device;
  char* host;
  size_t bytes;
};

class Transfer {
 public:
  // Segments that lie side by side on the device, in that order, travel together. Done when these return.
  void to_host(const std::vector<Segment>& segments, cudaStream_t stream);
  void to_device(const std::vector<Segment>& segments, cudaStream_t stream);

 private:
  struct Piece {  // a part of a segment, and where it lies in a batch
    Segment segment;
    size_t offset;
  };
  struct Run {  // what lies side by side on the device: one copy
    char* device;
    size_t offset, bytes;
  };
  struct Batch {  // fits into the page-locked memory
    std::vector<Piece> pieces;
    std::vector<Run> runs;
    size_t bytes = 0;
  };

  std::vector<Batch> batches_of(const std::vector<Segment>& segments, size_t widest_gap);

  size_t bytes_ = 0;
  PinnedMemory memory_;
};

}  // namespace seqexport::trt
