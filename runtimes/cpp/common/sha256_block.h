// The rounds of a block by a processor's instructions: its `words`, `rounds` and `next` stand before this file is included,
// and SEQEXPORT_SHA gives what calls them the same instructions.
#pragma once

namespace seqexport {
namespace {

// `first` and `second`: the halves of the state, as the instructions have them.
template <typename Four>
SEQEXPORT_SHA inline void sha256_block(Four& first, Four& second, const uint8_t* block) {
  Four w0 = words(block), w4 = words(block + 16), w8 = words(block + 32), w12 = words(block + 48);
  for (size_t round = 0; round < 48; round += 16) {
    rounds(first, second, w0, round);
    w0 = next(w0, w4, w8, w12);
    rounds(first, second, w4, round + 4);
    w4 = next(w4, w8, w12, w0);
    rounds(first, second, w8, round + 8);
    w8 = next(w8, w12, w0, w4);
    rounds(first, second, w12, round + 12);
    w12 = next(w12, w0, w4, w8);
  }
  rounds(first, second, w0, 48);
  rounds(first, second, w4, 52);
  rounds(first, second, w8, 56);
  rounds(first, second, w12, 60);
}

}  // namespace
}  // namespace seqexport
