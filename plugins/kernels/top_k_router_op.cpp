#include "op.h"
#include "top_k_router.h"

#define FIELD(name) SEQEXPORT_FIELD(TopKRouterParams, name)

namespace seqexport {
namespace {

constexpr int kMostExperts = 1024, kMostChoices = 256;

void check_params(const TopKRouterParams& p, Device) {
  if (p.experts % p.groups != 0) {
    throw Refusal("groups must divide E (experts) = " + std::to_string(p.experts) + ", got " +
                  std::to_string(p.groups));
  }
  if (p.kept_groups > p.groups) {
    throw Refusal("kept_groups must be at most groups = " + std::to_string(p.groups) + ", got " +
                  std::to_string(p.kept_groups));
  }
  const int kept = p.experts / p.groups * p.kept_groups;
  if (p.k > kept) {
    throw Refusal("k must be at most the " + std::to_string(kept) + " experts that a token may choose from, got " +
                  std::to_string(p.k));
  }
}

}  // namespace

Op top_k_router_op() {
  enum { B, L, E, k };
  Op op = {"TopKRouter", sizeof(TopKRouterParams)};
  op.sizes = {Size("B"), Size("L"), {"E", FIELD(experts), {}, {1, kMostExperts}}, Size("k")};
  op.rows = FIELD(rows);
  op.inputs = {{FIELD(logits), 'T', {B, L, E}}, Tensor(FIELD(bias), 'F', {E}).optional()};
  op.outputs = {{FIELD(chosen), 'I', {B, L, k}}, {FIELD(weight), 'F', {B, L, k}}};
  op.attributes = {Attribute(FIELD(k), 1, 1, kMostChoices).gives_size(k),
                   {FIELD(score), {"softmax", "sigmoid"}},
                   {FIELD(normalised), 0, 0, 1},
                   {FIELD(epsilon), 0.0},
                   {FIELD(scale), 1.0},
                   {FIELD(groups), 1, 1, kMaxSize},
                   {FIELD(kept_groups), 1, 1, kMaxSize}};
  op.check_params = erased<&check_params>;
  return op;
}

}  // namespace seqexport
