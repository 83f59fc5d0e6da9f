// y = x * cos + rotate_half(x) * sin for the first R features of each head; the others are copied. A task is a token,
// or several small ones.
#include "rotary_embedding.h"

#include "simd.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

constexpr int kTaskElements = 8192;  // of a task, unless one token has more

// y may be x: both halves of a vector are read before they are written.
template <class T>
void turn(const T* x, T* y, const T* cos, const T* sin, int half) {
  for (int i = 0; i < half; i += W) {
    const int count = smaller(W, half - i), j = i + half;
    const Vec low = load(x + i, count), high = load(x + j, count);
    store(y + i, low * load(cos + i, count) - high * load(sin + i, count), count);
    store(y + j, high * load(cos + j, count) + low * load(sin + j, count), count);
  }
}

template <class T>
void turn_heads(const void* from, void* to, int heads, const RotaryEmbeddingParams& p, int64_t token) {
  const int Dh = p.head_dim, R = p.rotary_dim;
  const T *cos = (const T*)p.cos + token * R, *sin = (const T*)p.sin + token * R;
  for (int h = 0; h < heads; ++h) {
    const int64_t first = (token * heads + h) * Dh;
    const T* x = (const T*)from + first;
    T* y = (T*)to + first;
    turn(x, y, cos, sin, R / 2);
    if (x != y) memcpy(y + R, x + R, (Dh - R) * sizeof(T));
  }
}

}  // namespace

void rotary_embedding(const RotaryEmbeddingParams& p, const Pool& pool) {
  const int64_t elements = (int64_t)(p.query_heads + p.kv_heads) * p.head_dim;
  const int tokens = larger(1, (int)(kTaskElements / elements));
  with_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(pool, blocks_of(p.rows, tokens), p.rows * elements * 2, [&](size_t task) {
      const int first = (int)task * tokens, end = smaller(first + tokens, p.rows);
      for (int token = first; token < end; ++token) {
        turn_heads<T>(p.query, p.query_rotated, p.query_heads, p, token);
        turn_heads<T>(p.key, p.key_rotated, p.kv_heads, p, token);
      }
    });
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
