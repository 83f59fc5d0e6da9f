// y[b] = x[b, clamp(seq_lens[b], 1, L) - 1].
#include "last_token.h"

#include "simd.h"

namespace seqexport::cpu::SEQEXPORT_ISA {

void last_token(const LastTokenParams& p, const Pool& pool) {
  const int64_t bytes = (int64_t)p.channels * seqexport_element_bytes(p.dtype);
  parallel(pool, p.batch, (int64_t)p.batch * p.channels, [&](size_t b) {
    const int64_t last = larger(valid_tokens(p.seq_lens, (int)b, p.length), 1) - 1;
    memcpy((char*)p.y + b * bytes, (const char*)p.x + ((int64_t)b * p.length + last) * bytes, bytes);
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
