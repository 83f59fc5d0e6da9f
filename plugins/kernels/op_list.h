/* Every op: its stem, its params struct, and the kernels that it has, CUDA and CPU, or NONE where one is not written
 * yet (its body runs there). C, C++ and CMake read it: <stem>_op.cpp describes an op, <stem>.cu and cpu/<stem>.cpp are
 * its kernels. */
#ifndef SEQEXPORT_KERNELS_OP_LIST_H_
#define SEQEXPORT_KERNELS_OP_LIST_H_

#define SEQEXPORT_OPS(OP)                                  \
  OP(causal_attention, CausalAttentionParams, CUDA, CPU)   \
  OP(causal_conv1d, CausalConv1dParams, CUDA, CPU)         \
  OP(embedding, EmbeddingParams, CUDA, CPU)                \
  OP(experts, ExpertsParams, CUDA, CPU)                    \
  OP(last_token, LastTokenParams, CUDA, CPU)               \
  OP(linear, LinearParams, CUDA, CPU)                      \
  OP(rms_norm, RmsNormParams, CUDA, CPU)                   \
  OP(rotary_embedding, RotaryEmbeddingParams, CUDA, CPU)   \
  OP(selective_scan, SelectiveScanParams, CUDA, CPU)       \
  OP(ssd_scan, SsdScanParams, CUDA, CPU)                   \
  OP(top_k_router, TopKRouterParams, CUDA, CPU)

#endif /* SEQEXPORT_KERNELS_OP_LIST_H_ */
