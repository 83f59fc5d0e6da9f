#include "embedding.h"
#include "op.h"

#define FIELD(name) SEQEXPORT_FIELD(EmbeddingParams, name)

namespace seqexport {

Op embedding_op() {
  enum { B, L, V, D };
  Op op = {"Embedding", sizeof(EmbeddingParams)};
  op.sizes = {Size("B"), Size("L"), {"V", FIELD(vocab)}, {"D", FIELD(channels)}};
  op.rows = FIELD(rows);
  op.inputs = {{FIELD(weight), 'T', {V, D}}, {FIELD(ids), 'I', {B, L}}};
  op.outputs = {{FIELD(y), 'T', {B, L, D}}};
  return op;
}

}  // namespace seqexport
