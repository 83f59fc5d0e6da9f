// Few tokens: every weight is read once, and that is the time it takes. A warp, or several, sums one output feature.
// More tokens are matrix products, and cuBLASLt's (linear_cublas.h).
#include "linear.h"

#include <algorithm>

#include "launch.cuh"
#include "linear_cublas.h"
#include "vector.cuh"

namespace seqexport {
namespace {

constexpr int kFewRows = 8;
constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kEnoughWarps = 16;  // on an SM; with fewer features than that, several warps share one

// One output feature: its row of a weight, and where its results go.
template <typename T>
struct Feature {
  const T* weight;
  const T* bias;  // this feature's, or null
  T* y;           // of token 0
  int stride;     // from a token's to the next one's
};

template <typename T>
__device__ __forceinline__ Feature<T> feature_at(const LinearParams& p, int n) {
  const void *weight = p.weight, *bias = p.bias;
  void* y = p.y;
  int features = p.out_features;
  if (n >= features) {
    n -= features;
    weight = p.weight1, bias = p.bias1, y = p.y1, features = p.out_features1;
    if (n >= features) {
      n -= features;
      weight = p.weight2, bias = p.bias2, y = p.y2, features = p.out_features2;
    }
  }
  return {static_cast<const T*>(weight) + int64_t(n) * p.in_features,
          bias ? static_cast<const T*>(bias) + n : nullptr, static_cast<T*>(y) + n, features};
}

// `kShare` warps sum a feature; kRows is at least the number of tokens, and spare ones repeat the last.
template <typename T, int kRows, int kShare, bool kVector>
__global__ void __launch_bounds__(kThreads, kRows == 1 && kShare == 1 ? 3 : 2)
    linear_rows_kernel(LinearParams p, int features) {
  constexpr int kSize = kVector ? kVectorSize<T> : 1;  // of a pack, what a lane reads at once
  using Pack = Raw<T, kSize>;
  constexpr int kStep = 32 * kShare;         // packs from a lane's to its next
  constexpr int kAhead = kRows > 2 ? 4 : 8;  // that a lane loads before it needs the first
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int n = blockIdx.x * (kWarps / kShare) + warp / kShare;
  const bool is_feature = n < features;
  const int packs = is_feature ? p.in_features / kSize : 0;
  const Feature<T> feature = feature_at<T>(p, is_feature ? n : 0);
  const T* x[kRows];
#pragma unroll
  for (int m = 0; m < kRows; ++m) x[m] = static_cast<const T*>(p.x) + int64_t(min(m, p.rows - 1)) * p.in_features;

  int first = (warp % kShare) * 32 + lane;
  if (lane % (128 / sizeof(Pack)) == 0) {  // a cache line
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i * kStep < packs) prefetch_to_l2(feature.weight + int64_t(first + i * kStep) * kSize);
    }
  }
  wait_for_previous_kernel();
  Pack ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (first + i * kStep < packs) ahead[i].stream(feature.weight + int64_t(first + i * kStep) * kSize);
  }

  float sums[kRows] = {};
  for (; first < packs; first += kAhead * kStep) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int pack = first + i * kStep;
      if (pack >= packs) break;
      float weights[kSize];
      ahead[i].unpack(weights);
      const int next = pack + kAhead * kStep;
      if (next < packs) ahead[i].stream(feature.weight + int64_t(next) * kSize);
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
        float values[kSize];
        load_vector(x[m] + int64_t(pack) * kSize, values);
#pragma unroll
        for (int k = 0; k < kSize; ++k) sums[m] = fmaf(weights[k], values[k], sums[m]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kRows; ++m) sums[m] = warp_sum(sums[m]);

  if constexpr (kShare > 1) {
    __shared__ float shares[kWarps][kRows];
    if (lane < kRows) {
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
        if (lane == m) shares[warp][m] = sums[m];
      }
    }
    __syncthreads();
    if (warp % kShare != 0) return;
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      for (int share = 1; share < kShare; ++share) sums[m] += shares[warp + share][m];
    }
  }
  if (!is_feature) return;
  const float bias = feature.bias ? to_float(*feature.bias) : 0.f;
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    if (lane == m && m < p.rows) feature.y[int64_t(m) * feature.stride] = from_float<T>(sums[m] + bias);
  }
}

template <typename T, int kRows, int kShare, bool kVector>
cudaError_t launch_rows(const LinearParams& p, cudaStream_t stream) {
  const int features = p.out_features + p.out_features1 + p.out_features2;
  const dim3 grid(unsigned(ceil_div(features, kWarps / kShare)));
  return launch(linear_rows_kernel<T, kRows, kShare, kVector>, grid, kThreads, 0, stream, p, features);
}

// As many warps to a feature as fill the device, while every lane still has something to read.
template <typename T, int kRows>
cudaError_t dispatch_share(const LinearParams& p, cudaStream_t stream) {
  const int64_t features = int64_t(p.out_features) + p.out_features1 + p.out_features2;
  const int64_t enough = int64_t(kEnoughWarps) * device_attribute(cudaDevAttrMultiProcessorCount);
  const int packs = p.in_features / kVectorSize<T>;
  if (features * 8 <= enough && packs >= 8 * 32) return launch_rows<T, kRows, 8, true>(p, stream);
  if (features * 4 <= enough && packs >= 4 * 32) return launch_rows<T, kRows, 4, true>(p, stream);
  if (features * 2 <= enough && packs >= 2 * 32) return launch_rows<T, kRows, 2, true>(p, stream);
  return launch_rows<T, kRows, 1, true>(p, stream);
}

bool takes_vectors(const LinearParams& p) {
  return rows_are_vectors(p.in_features, seqexport_element_bytes(p.dtype), {p.x, p.weight, p.weight1, p.weight2});
}

template <typename T, int kRows>
cudaError_t dispatch_vector(const LinearParams& p, cudaStream_t stream) {
  return takes_vectors(p) ? dispatch_share<T, kRows>(p, stream) : launch_rows<T, kRows, 1, false>(p, stream);
}

template <typename T>
cudaError_t dispatch_rows(const LinearParams& p, cudaStream_t stream) {
  return p.rows == 1 ? dispatch_vector<T, 1>(p, stream)
       : p.rows == 2 ? dispatch_vector<T, 2>(p, stream)
       : p.rows <= 4 ? dispatch_vector<T, 4>(p, stream)
                     : dispatch_vector<T, kFewRows>(p, stream);
}

cudaError_t linear_rows(const LinearParams& p, cudaStream_t stream) {
  return with_type(p.dtype, [&](auto zero) { return dispatch_rows<decltype(zero)>(p, stream); });
}

// As many tokens as there are, a few at a time.
cudaError_t linear_all_rows(const LinearParams& p, cudaStream_t stream) {
  const int64_t bytes = seqexport_element_bytes(p.dtype);
  cudaError_t e = cudaSuccess;
  for (int first = 0; first < p.rows && e == cudaSuccess; first += kFewRows) {
    LinearParams part = p;
    const auto at = [&](const void* tensor, int features) {
      return tensor ? static_cast<const char*>(tensor) + bytes * first * features : nullptr;
    };
    part.rows = std::min(kFewRows, p.rows - first);
    part.x = at(p.x, p.in_features);
    part.y = const_cast<char*>(at(p.y, p.out_features));
    part.y1 = const_cast<char*>(at(p.y1, p.out_features1));
    part.y2 = const_cast<char*>(at(p.y2, p.out_features2));
    e = linear_rows(part, stream);
  }
  return e;
}

}  // namespace

size_t linear_workspace(const LinearParams& p) { return p.rows > kFewRows ? kLinearWorkspace : 0; }

cudaError_t linear(const LinearParams& p, cudaStream_t stream) {
  if (p.rows <= kFewRows) return linear_rows(p, stream);
  // Of rows that are no whole vectors, cuBLASLt computes some less exactly (K = 33 in bfloat16), and refuses others.
  if (!takes_vectors(p)) return linear_all_rows(p, stream);
  const cudaError_t e = linear_cublas(p, stream);
  return e == cudaErrorStreamCaptureUnsupported ? linear_all_rows(p, stream) : e;
}

}  // namespace seqexport
