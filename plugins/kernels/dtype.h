/* Element types of the activation tensors ("T" in every shape comment). Plain C. */
#ifndef SEQEXPORT_KERNELS_DTYPE_H_
#define SEQEXPORT_KERNELS_DTYPE_H_

enum SeqexportDataType {
  SEQEXPORT_FLOAT32 = 0,
  SEQEXPORT_FLOAT16 = 1,
  SEQEXPORT_BFLOAT16 = 2,
};

static inline unsigned seqexport_element_bytes(int dtype) { return dtype == SEQEXPORT_FLOAT32 ? 4 : 2; }

#endif /* SEQEXPORT_KERNELS_DTYPE_H_ */
