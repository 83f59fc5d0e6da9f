// The part of cuBLASLt's C interface that linear_cublas.cpp uses, opened at run time: the kernels then build and run
// without it where there are few tokens, and a machine needs neither its header nor the version built with. The names,
// numbers and layouts are those of cublasLt.h, the same from CUDA 11 on.
#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace seqexport::cublaslt {

using Handle = void*;
using MatmulDesc = void*;
using MatrixLayout = void*;
using Preference = void*;

enum Operation : int32_t { kNone = 0, kTranspose = 1 };
enum ComputeType : int32_t { kFloat32 = 68 };  // never TF32
enum Epilogue : int32_t { kBias = 4 };
enum DescAttribute : int32_t { kTransA = 3, kEpilogue = 7, kBiasPointer = 8 };
enum ReductionScheme : uint32_t { kInComputeType = 2 };  // of partial sums, never in the type of the output
enum PreferenceAttribute : int32_t {
  kMaxWorkspace = 1,
  kReductionSchemes = 3,
  kAlignmentA = 5,
  kAlignmentB = 6,
  kAlignmentC = 7,
  kAlignmentD = 8,
};

struct Algorithm {
  uint64_t data[8];
};

struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  int32_t status;
  float waves;
  int32_t reserved[4];
};

// Each function returns 0 where it succeeds.
struct Library {
  int (*cublasLtCreate)(Handle*);
  int (*cublasLtMatmulDescCreate)(MatmulDesc*, int32_t compute, int32_t scale);
  int (*cublasLtMatmulDescSetAttribute)(MatmulDesc, int32_t, const void*, size_t);
  int (*cublasLtMatrixLayoutCreate)(MatrixLayout*, int32_t type, uint64_t rows, uint64_t columns, int64_t stride);
  int (*cublasLtMatmulDescDestroy)(MatmulDesc);
  int (*cublasLtMatrixLayoutDestroy)(MatrixLayout);
  int (*cublasLtMatmulPreferenceCreate)(Preference*);
  int (*cublasLtMatmulPreferenceSetAttribute)(Preference, int32_t, const void*, size_t);
  int (*cublasLtMatmulPreferenceDestroy)(Preference);
  int (*cublasLtMatmulAlgoGetHeuristic)(Handle, MatmulDesc, MatrixLayout a, MatrixLayout b, MatrixLayout c,
                                        MatrixLayout d, Preference, int wanted, HeuristicResult*, int* found);
  int (*cublasLtMatmul)(Handle, MatmulDesc, const void* alpha, const void* a, MatrixLayout, const void* b, MatrixLayout,
                        const void* beta, const void* c, MatrixLayout, void* d, MatrixLayout, const Algorithm*,
                        void* workspace, size_t workspace_bytes, cudaStream_t);
  std::string fault;  // why there is none; empty where there is
};

// Opened once a process.
const Library& library();

}  // namespace seqexport::cublaslt
