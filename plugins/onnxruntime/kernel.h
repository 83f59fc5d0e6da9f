// A node of a session: what its attributes say, where its inputs stand, and one run of it.
#pragma once

#include "api.h"
#include "node.h"

namespace seqexport::ort {

// Where each of Op::inputs stands among a node's: the order of the schema, or of the attribute `inputs`, which names
// the inputs that a node has where absent ones are left out. -1: absent.
std::vector<int> positions(const Op& op, const std::string& listed);

// What `body` returns; a Refusal of it names the op, as an invalid argument.
template <class Body>
auto naming(const Op& op, Body&& body) {
  try {
    return body();
  } catch (const Refusal& refusal) {
    throw Refused(ORT_INVALID_ARGUMENT, std::string(op.name) + ": " + refusal.what());
  }
}

// Runs may overlap, so that compute changes nothing of it.
class Kernel {
 public:
  // Reads the attributes; throws Refusal.
  Kernel(const Op& op, Device device, const OrtKernelInfo* info);
  const Op& op() const { return node_.op(); }
  void compute(OrtKernelContext* context) const;

 private:
  struct Inputs;
  Inputs inputs(OrtKernelContext* context) const;
  // Memory for the outputs, null for those that the node leaves out.
  std::array<void*, kMaxOutputs> outputs(OrtKernelContext* context, const Sizes& sizes,
                                         const std::vector<bool>& is_given) const;

  Node node_;
  Device device_;
  std::vector<int> positions_;
};

}  // namespace seqexport::ort
