#include "transfer.h"

#include <algorithm>
#include <cstring>

namespace seqexport::trt {
namespace {

constexpr size_t kMost = size_t(32) << 20;  // of page-locked memory

}  // namespace

std::vector<Transfer::Batch> Transfer::batches_of(const std::vector<Segment>& segments, size_t widest_gap) {
  size_t all = 0;
  for (const Segment& segment : segments) all += segment.bytes + kAlignment;
  const size_t room = std::min(all, kMost);
  if (room > bytes_) {
    memory_.reset();
    bytes_ = 0;
    memory_ = allocate_pinned(room);
    bytes_ = room;
  }
  std::vector<Batch> batches;
  for (Segment left : segments) {
    while (left.bytes > 0) {
      if (batches.empty() || batches.back().bytes == bytes_) batches.emplace_back();
      Batch& batch = batches.back();
      Run* const last = batch.runs.empty() ? nullptr : &batch.runs.back();
      const ptrdiff_t gap = last ? left.device - (last->device + last->bytes) : -1;
      const bool beside = last && gap >= 0 && size_t(gap) <= widest_gap && batch.bytes + size_t(gap) < bytes_;
      if (beside)
        batch.bytes += size_t(gap), last->bytes += size_t(gap);
      else
        batch.runs.push_back({left.device, batch.bytes, 0});
      const size_t taken = std::min(left.bytes, bytes_ - batch.bytes);
      batch.pieces.push_back({{left.device, left.host, taken}, batch.bytes});
      batch.runs.back().bytes += taken;
      batch.bytes += taken;
      left = {left.device + taken, left.host + taken, left.bytes - taken};
    }
  }
  return batches;
}

void Transfer::to_host(const std::vector<Segment>& segments, cudaStream_t stream) {
  for (const Batch& batch : batches_of(segments, kAlignment)) {  // padding between two travels along
    for (const Run& run : batch.runs) copy_out(memory_.get() + run.offset, run.device, run.bytes, stream);
    synchronize(stream);
    for (const auto& [segment, offset] : batch.pieces)
      std::memcpy(segment.host, memory_.get() + offset, segment.bytes);
  }
}

void Transfer::to_device(const std::vector<Segment>& segments, cudaStream_t stream) {
  for (const Batch& batch : batches_of(segments, 0)) {
    for (const auto& [segment, offset] : batch.pieces)
      std::memcpy(memory_.get() + offset, segment.host, segment.bytes);
    for (const Run& run : batch.runs) copy_in(run.device, memory_.get() + run.offset, run.bytes, stream);
    synchronize(stream);
  }
}

}  // namespace seqexport::trt
