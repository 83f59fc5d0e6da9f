// y[t] = weight[ids[t]], or zeros where the table has no such row. A task is a token, or several small ones.
#include "embedding.h"

#include "simd.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

constexpr int kTaskElements = 8192;  // of a task, unless one token has more

void copy_token(const EmbeddingParams& p, int token, int64_t bytes) {
  const int id = p.ids[token];
  char* y = (char*)p.y + token * bytes;
  if (id >= 0 && id < p.vocab) {
    memcpy(y, (const char*)p.weight + id * bytes, bytes);
  } else {
    memset(y, 0, bytes);
  }
}

}  // namespace

void embedding(const EmbeddingParams& p, const Pool& pool) {
  const int64_t bytes = (int64_t)p.channels * seqexport_element_bytes(p.dtype);
  const int tokens = larger(1, kTaskElements / p.channels);
  parallel(pool, blocks_of(p.rows, tokens), (int64_t)p.rows * p.channels, [&](size_t task) {
    const int first = (int)task * tokens, end = smaller(first + tokens, p.rows);
    for (int token = first; token < end; ++token) copy_token(p, token, bytes);
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
