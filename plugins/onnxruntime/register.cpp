// RegisterCustomOps: what SessionOptions.register_custom_ops_library and RegisterCustomOpsLibrary_V2 call.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "custom_op.h"
#include "kernels.h"

#if defined(_WIN32)
#define SEQEXPORT_EXPORT extern "C" __declspec(dllexport)
#else
#define SEQEXPORT_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace seqexport::ort {
namespace {

// The domain of our ops, and that of the nodes which the export target `ort` made of them: they mean the same.
constexpr const char* kDomains[] = {"seqexport", "seqexport.ort"};

// So do these, by which a model tells several bodies of one op apart (exporter/passes/functions.py). A model with more
// forms of an op than this runs the others as their bodies.
constexpr const char* kMoreDomains[] = {"seqexport.2", "seqexport.3", "seqexport.ort.2", "seqexport.ort.3"};

bool any_op(const Op&) { return true; }

// Of such models have bodies; the others are nodes of the target `tensorrt` alone.
bool keeps_state(const Op& op) {
  return std::any_of(op.outputs.begin(), op.outputs.end(),
                     [](const Tensor& output) { return std::string_view(output.name).substr(0, 7) == "present"; });
}

// The types of T, and float64 so that the op itself says that it does not take it.
constexpr ONNXTensorElementDataType kTypes[] = {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE};

// Before 1.24 ONNX Runtime dereferences a null pointer on the way to the shape rule of a node that lacks an optional
// input (its pull request 26199); there outputs have types alone until they are computed.
constexpr int kInfersShapesSince = 24;

std::vector<CustomOp> make_ops(bool infers_shapes) {
  std::vector<CustomOp> made;
  for (size_t i = 0; i < ops().size(); ++i) {
    const Op& op = ops()[i];
    for (const auto type : kTypes) {
      if (cpu::kernel(i)) made.emplace_back(op, Device::kCpu, type, infers_shapes);
      if (op.launch) made.emplace_back(op, Device::kCuda, type, infers_shapes);
    }
  }
  return made;
}

OrtCustomOpDomain* make_domain(const char* name, std::vector<CustomOp>& ops, bool (*holds)(const Op&)) {
  OrtCustomOpDomain* domain = nullptr;
  check(api().CreateCustomOpDomain(name, &domain));
  for (CustomOp& op : ops) {
    if (holds(*op.op)) check(api().CustomOpDomain_Add(domain, &op));
  }
  return domain;
}

// Made once, for the one runtime of the process. Never destroyed, as all that an op is described by: a program's global
// session still runs when the statics of a library that was loaded after it are gone.
void add_domains(OrtSessionOptions* options, int minor_version) {
  static auto& ops = *new std::vector<CustomOp>(make_ops(minor_version >= kInfersShapesSince));
  static const auto& domains = *new std::vector<OrtCustomOpDomain*>([] {
    std::vector<OrtCustomOpDomain*> made;
    for (const char* name : kDomains) made.push_back(make_domain(name, ops, any_op));
    for (const char* name : kMoreDomains) made.push_back(make_domain(name, ops, keeps_state));
    return made;
  }());
  for (OrtCustomOpDomain* domain : domains) check(api().AddCustomOpDomain(options, domain));
}

}  // namespace
}  // namespace seqexport::ort

// CreateStatus is the first entry of every version's table, so a runtime that is too old can still be told so.
SEQEXPORT_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace seqexport::ort;
  const OrtApi* served = base->GetApi(kApiVersion);
  if (served == nullptr) {
    const std::string message = "seqexport: this library needs ONNX Runtime 1." + std::to_string(kApiVersion) +
                                " or newer, and this is " + base->GetVersionString();
    return base->GetApi(1)->CreateStatus(ORT_NOT_IMPLEMENTED, message.c_str());
  }
  set_api(served);
  const char* dot = std::strchr(base->GetVersionString(), '.');
  return guarded([&] { add_domains(options, dot ? std::atoi(dot + 1) : 0); });
}
