#include "feeds.h"

#include <algorithm>

namespace seqexport::trt {
namespace {

// Values [rows, columns] as numbers of a feed's size, each row padded with zeros to `width`.
template <class Item, class Value>
void put(char* to, const Value* values, size_t rows, size_t columns, size_t width) {
  auto* items = reinterpret_cast<Item*>(to);
  for (size_t row = 0; row < rows; ++row, items += width) {
    std::transform(values + row * columns, values + (row + 1) * columns, items, [](Value v) { return Item(v); });
    std::fill(items + columns, items + width, Item(0));
  }
}

template <class Value>
void put(const Feed& feed, char* to, const Value* values, size_t rows, size_t columns, size_t width) {
  if (feed.item_bytes == sizeof(int64_t))
    put<int64_t>(to, values, rows, columns, width);
  else
    put<int32_t>(to, values, rows, columns, width);
}

size_t items(const Feed& feed, size_t batch, size_t width) { return feed.what == Feed::kTokens ? batch * width : batch; }

}  // namespace

size_t Feeds::bytes(const std::vector<Feed>& feeds, size_t batch, size_t width) {
  size_t bytes = 0;
  for (const Feed& feed : feeds) bytes += aligned(items(feed, batch, width) * feed.item_bytes);
  return bytes;
}

Feeds::Feeds(const std::vector<Feed>& feeds, size_t batch, size_t width, char* device, char* host)
    : batch_(batch), device_(device), host_(host) {
  size_t offset = 0;
  for (const Feed& feed : feeds) {
    places_.push_back({feed, offset});
    offset += aligned(items(feed, batch, width) * feed.item_bytes);
  }
}

void Feeds::fill(const Call& call, size_t width) {
  for (const auto& [feed, offset] : places_) {
    char* const to = host_ + offset;
    if (feed.what == Feed::kSeqLens) put(feed, to, call.seq_lens, batch_, 1, 1);
    if (feed.what == Feed::kPastLens) put(feed, to, call.past_lens, batch_, 1, 1);
    if (feed.what == Feed::kTokens) put(feed, to, call.tokens, batch_, call.columns, width);
    used_ = offset + items(feed, batch_, width) * feed.item_bytes;
  }
}

void Feeds::upload(cudaStream_t stream) const { copy_in(device_, host_, used_, stream); }

}  // namespace seqexport::trt
