// Attention over a cache of keys and values, in two passes over the tasks:
//   1. each row and kv head: the new keys and values go into the cache (and the old ones, where present is not past);
//   2. each row, kv head and tile of queries: softmax(Q K') V over blocks of keys, rescaled as the maximum grows
//      (Milakov & Gimelshein 2018; Dao et al. 2022). A tile's rows are the tokens' query heads that share the kv head.
// A block's keys are widened and transposed once for a tile; for few queries (decode) they are read as they lie.
#include "causal_attention.h"

#include "gemm.h"
#include "math.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

constexpr int kKeys = 64, kMaxRows = 128, kMaxDim = 256, kTileElements = 128 * 128, kFewRows = 8;
constexpr int kKeysAtOnce = 4;  // of score_few

struct Sizes {
  const CausalAttentionParams& p;
  int group;  // query heads of a kv head

  explicit Sizes(const CausalAttentionParams& p) : p(p), group(p.query_heads / p.kv_heads) {}
  int past(int b) const { return smaller(larger(p.past_lens[b], 0), p.capacity); }
  int fresh(int b) const { return smaller(valid_tokens(p.seq_lens, b, p.length), p.capacity - past(b)); }
};

// 1.
void fill_cache(const CausalAttentionParams& p, int b, int h, const void* old, void* cache, const void* fresh,
                int64_t stride, int dim) {
  const Sizes sizes(p);
  const int64_t bytes = seqexport_element_bytes(p.dtype);
  const int64_t head = ((int64_t)b * p.kv_heads + h) * p.capacity * dim * bytes;
  if (old != cache) memcpy((char*)cache + head, (const char*)old + head, p.capacity * dim * bytes);
  for (int t = 0; t < sizes.fresh(b); ++t) {
    memcpy((char*)cache + head + (int64_t)(sizes.past(b) + t) * dim * bytes,
           (const char*)fresh + (((int64_t)b * p.length + t) * stride + (int64_t)h * dim) * bytes, dim * bytes);
  }
}

struct Room : InScratch {
  float most[kMaxRows], total[kMaxRows];
  float query[kTileElements + W], out[kTileElements + kMaxRows * W], score[kMaxRows * kKeys];
  float transposed[kKeys * kMaxDim], wide_values[kKeys * kMaxDim];
};

// 2. Rows first..first + rows of (token, head of the group) for kv head h of row b of the batch.
template <class T>
class Tile {
 public:
  Tile(const CausalAttentionParams& p, int b, int h, int first, int rows)
      : p_(p), sizes_(p), b_(b), h_(h), first_(first), rows_(rows), past_(sizes_.past(b)),
        width_(blocks_of(p.value_dim, W) * W) {
    const int64_t head = ((int64_t)b * p.kv_heads + h) * p.capacity;
    keys_ = (const T*)p.present_key + head * p.key_dim;
    values_ = (const T*)p.present_value + head * p.value_dim;
  }

  void run() {
    read_queries();
    memset(room_.out, 0, sizeof(float) * rows_ * width_);
    for (int r = 0; r < rows_; ++r) room_.most[r] = -__builtin_inff(), room_.total[r] = 0;
    const int last = position(rows_ - 1);
    int key = p_.window ? larger(position(0) - p_.window + 1, 0) : 0;
    for (; key <= last; key += kKeys) attend(key, smaller(kKeys, last + 1 - key));
    write();
  }

 private:
  int token(int r) const { return (first_ + r) / sizes_.group; }
  int head(int r) const { return h_ * sizes_.group + (first_ + r) % sizes_.group; }
  int position(int r) const { return past_ + token(r); }
  // The first key of row r.
  int begin(int r) const { return p_.window ? larger(position(r) - p_.window + 1, 0) : 0; }

  void read_queries() {
    const float scale = p_.softcap != 0 ? p_.scale / p_.softcap : p_.scale * kLog2e;
    for (int r = 0; r < rows_; ++r) {
      const int64_t row = ((int64_t)b_ * p_.length + token(r)) * p_.query_stride;
      const T* from = (const T*)p_.query + row + head(r) * p_.key_dim;
      for (int d = 0; d < p_.key_dim; d += W) {
        const int count = smaller(W, p_.key_dim - d);
        store(room_.query + r * p_.key_dim + d, load(from + d, count) * scale, count);
      }
    }
  }

  // Keys key..key + count, of which every row sees some or none.
  void attend(int key, int count) {
    int low = 0, high = rows_;
    while (low < high && position(low) < key) ++low;
    while (high > low && begin(high - 1) >= key + count) --high;
    if (low == high) return;
    rows_ <= kFewRows ? score_few(key, count, low, high) : score(key, count, low, high);
    for (int r = low; r < high; ++r) soften(r, key, count);
    const float* values = widened_values(key, count);
    gemm(high - low, width_, count, room_.score + low * kKeys, kKeys, values, values_width_, room_.out + low * width_,
         width_);
  }

  void score(int key, int count, int low, int high) {
    const int dim = p_.key_dim, padded = blocks_of(count, W) * W;
    for (int k = 0; k < count; ++k) {
      float wide[kMaxDim];
      for (int d = 0; d < dim; d += W) {
        const int lanes = smaller(W, dim - d);
        store(wide + d, load(keys_ + (int64_t)(key + k) * dim + d, lanes), lanes);
      }
      for (int d = 0; d < dim; ++d) room_.transposed[d * kKeys + k] = wide[d];
    }
    for (int k = count; k < padded; ++k) {
      for (int d = 0; d < dim; ++d) room_.transposed[d * kKeys + k] = 0;
    }
    for (int r = low; r < high; ++r) memset(room_.score + r * kKeys, 0, sizeof(float) * padded);
    gemm(high - low, padded, dim, room_.query + low * dim, dim, room_.transposed, kKeys, room_.score + low * kKeys,
         kKeys);
  }

  void score_few(int key, int count, int low, int high) {
    int k = 0;
    for (; k + kKeysAtOnce <= count; k += kKeysAtOnce) score_keys<kKeysAtOnce>(key, k, low, high);
    for (; k < count; ++k) score_keys<1>(key, k, low, high);
  }

  template <int kCount>
  void score_keys(int key, int k, int low, int high) {
    const int dim = p_.key_dim;
    const T* from = keys_ + (int64_t)(key + k) * dim;
    for (int r = low; r < high; ++r) {
      Vec products[kCount] = {};
      for (int d = 0; d < dim; d += W) {
        const int lanes = smaller(W, dim - d);
        const Vec part = load(room_.query + r * dim + d, lanes);
        for (int i = 0; i < kCount; ++i) products[i] += part * load(from + i * dim + d, lanes);
      }
      for (int i = 0; i < kCount; ++i) room_.score[r * kKeys + k + i] = sum(products[i]);
    }
  }

  // Scores of row r, in units of log2 e, become weights against the row's maximum so far.
  void soften(int r, int key, int count) {
    float* score = room_.score + r * kKeys;
    const int from = larger(begin(r) - key, 0), to = smaller(position(r) - key + 1, count);
    const int padded = blocks_of(count, W) * W;
    Vec top = all(-__builtin_inff());
    for (int k = 0; k < padded; k += W) {
      Vec s = load(score + k);
      if (p_.softcap != 0) s = tanh(s) * (p_.softcap * kLog2e);
      if (k < from || k + W > to) s = choose((lanes_ + k >= from) & (lanes_ + k < to), s, all(-__builtin_inff()));
      store(score + k, s);
      top = choose(s > top, s, top);
    }
    const float most = largest(top) > room_.most[r] ? largest(top) : room_.most[r];
    const float base = most == -__builtin_inff() ? 0 : most;
    const Vec rescale = exp2(all(room_.most[r] - base));
    Vec weights = zero();
    for (int k = 0; k < padded; k += W) {
      const Vec weight = exp2(load(score + k) - base);
      store(score + k, weight);
      weights += weight;
    }
    room_.total[r] = room_.total[r] * rescale[0] + sum(weights);
    if (most == room_.most[r]) return;
    room_.most[r] = most;
    for (int d = 0; d < width_; d += W) store(room_.out + r * width_ + d, load(room_.out + r * width_ + d) * rescale);
  }

  // The block's values in rows of whole vectors: where they lie, if they are that already.
  const float* widened_values(int key, int count) {
    const T* from = values_ + (int64_t)key * p_.value_dim;
    values_width_ = width_;
    if (is_float(from) && width_ == p_.value_dim) return (const float*)from;
    for (int k = 0; k < count; ++k) {
      for (int d = 0; d < p_.value_dim; d += W) {
        store(room_.wide_values + k * width_ + d, load(from + k * p_.value_dim + d, smaller(W, p_.value_dim - d)));
      }
    }
    return room_.wide_values;
  }
  static bool is_float(const float*) { return true; }
  static bool is_float(const void*) { return false; }

  void write() {
    for (int r = 0; r < rows_; ++r) {
      T* to = (T*)p_.y + (((int64_t)b_ * p_.length + token(r)) * p_.query_heads + head(r)) * p_.value_dim;
      for (int d = 0; d < p_.value_dim; d += W) {
        store(to + d, load(room_.out + r * width_ + d) / room_.total[r], smaller(W, p_.value_dim - d));
      }
    }
  }

  const CausalAttentionParams& p_;
  const Sizes sizes_;
  const int b_, h_, first_, rows_, past_, width_;
  int values_width_ = 0;
  const T *keys_, *values_;
  const Ints lanes_ = lane_numbers();
  Room& room_ = *new Room;
};

// Rows of a tile; as rows are in the order of tokens, positions do not fall.
int tile_rows(const CausalAttentionParams& p) {
  const int dim = larger(p.key_dim, p.value_dim);
  return smaller(kMaxRows, kTileElements / dim);
}

template <class T>
void zero_padding(const CausalAttentionParams& p, int b, int valid) {
  const int64_t token = (int64_t)p.query_heads * p.value_dim;
  memset((T*)p.y + ((int64_t)b * p.length + valid) * token, 0, (p.length - valid) * token * sizeof(T));
}

}  // namespace

void causal_attention(const CausalAttentionParams& p, const Pool& pool) {
  const Sizes sizes(p);
  const int64_t copied = (int64_t)p.batch * p.kv_heads * (p.key_dim + p.value_dim) *
                         (p.present_key == p.past_key && p.present_value == p.past_value ? p.length : p.capacity);
  parallel(pool, (size_t)p.batch * p.kv_heads, copied / 4, [&](size_t task) {
    const int h = task % p.kv_heads, b = task / p.kv_heads;
    fill_cache(p, b, h, p.past_key, p.present_key, p.key, p.key_stride, p.key_dim);
    fill_cache(p, b, h, p.past_value, p.present_value, p.value, p.value_stride, p.value_dim);
  });

  int longest = 0;
  for (int b = 0; b < p.batch; ++b) longest = larger(longest, sizes.past(b) + sizes.fresh(b));
  const int height = tile_rows(p), tiles = blocks_of(p.length * sizes.group, height);
  const int64_t work = (int64_t)p.batch * p.query_heads * p.length * longest * (p.key_dim + p.value_dim) / 8;
  with_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(pool, (size_t)p.batch * p.kv_heads * tiles, work, [&](size_t task) {
      const int tile = tiles - 1 - task / (p.kv_heads * (size_t)p.batch);  // the longest first
      const int h = task % p.kv_heads, b = task / p.kv_heads % p.batch;
      const int valid = sizes.fresh(b), rows = smaller(height, valid * sizes.group - tile * height);
      if (rows > 0) Tile<T>(p, b, h, tile * height, rows).run();
      if (tile == 0 && h == 0) zero_padding<T>(p, b, valid);
    });
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
