// What a call brings to the device: lengths and tokens, in one copy.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "backend.h"
#include "cuda.h"

namespace seqexport::trt {

// One input that a call fills; all are whole numbers of 4 or 8 bytes.
struct Feed {
  std::string name;
  size_t item_bytes;
  enum { kSeqLens, kPastLens, kTokens } what;
};

// Lies in page-locked memory and in the device's, at the same offsets; the one whose size a call chooses is the last.
class Feeds {
 public:
  // Bytes that calls of up to `width` columns need, in both memories.
  static size_t bytes(const std::vector<Feed>& feeds, size_t batch, size_t width);

  Feeds(const std::vector<Feed>& feeds, size_t batch, size_t width, char* device, char* host);

  // Puts a call into the host's memory, its tokens padded to `width`.
  void fill(const Call& call, size_t width);
  void upload(cudaStream_t stream) const;
  // Calls tell(name, address) for each.
  template <class Tell>
  void bind(Tell&& tell) const {
    for (const Place& place : places_) tell(place.feed.name, device_ + place.offset);
  }

 private:
  struct Place {
    Feed feed;
    size_t offset;
  };

  size_t batch_, used_ = 0;
  char *device_, *host_;
  std::vector<Place> places_;
};

}  // namespace seqexport::trt
