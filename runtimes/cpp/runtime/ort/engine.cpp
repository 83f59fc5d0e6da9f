#include "engine.h"

#include <sched.h>

#include <cstdio>
#include <set>

#include "error.h"
#include "states.h"

namespace seqexport {
namespace ort {
namespace {

std::string version() { return OrtGetApiBase()->GetVersionString(); }

int usable_cores() {
  cpu_set_t cores;
  return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 0;  // 0: ONNX Runtime's own choice
}

// Whether it lacks the attention of target ort, which takes ragged chunks since 1.32, and opset 27, which came with it.
bool is_before_1_32() {
  int major = 0, minor = 0;
  std::sscanf(version().c_str(), "%d.%d", &major, &minor);
  return major < 1 || (major == 1 && minor < 32);
}

// What this ONNX Runtime is known not to run, before it reads a weight.
void check_runs(const Bundle& bundle, const OpsLibrary& ops) {
  const std::string name = bundle.folder.string();
  if (bundle.dtype == "bfloat16")
    throw UserError(name + ": bfloat16, for which ONNX Runtime's CPU has no kernels; export it with --dtype fp16 or fp32");
  bool attends = false;
  for (const State& state : bundle.states) attends = attends || (state.grows() && bundle.caches_in_place);
  const std::string too_old = " needs ONNX Runtime 1.32 or newer, and this is " + version() + "; ";
  if (bundle.target == "ort" && attends && is_before_1_32())
    throw UserError(name + ": the attention of target ort" + too_old + "export it with --target portable");
  if (bundle.opset >= 27 && is_before_1_32())
    throw UserError(name + ": opset " + std::to_string(bundle.opset) + too_old + "export it with --opset 20");
  if (bundle.target == "tensorrt" && !bundle.ops.empty() && !ops.library)
    throw UserError(name + ": target tensorrt has no function bodies, so ONNX Runtime needs the library of our ops (" +
                    ops.why_not + "); build it: " + kBuildPlugins + ", or export with --target portable");
}

Owned<OrtSession> opened(OrtEnv& environment, const Bundle& bundle, const OpsLibrary& ops, int threads) {
  const std::string model = bundle.model.file.string(), here = "ONNX Runtime " + version();
  OrtSessionOptions* made = nullptr;
  check(api().CreateSessionOptions(&made), here);
  const Owned<OrtSessionOptions> options(made);
  check(api().SetIntraOpNumThreads(made, threads > 0 ? threads : usable_cores()), here);
  ops.register_in(*made);
  OrtSession* session = nullptr;
  check(api().CreateSession(&environment, model.c_str(), made, &session), here + " cannot load " + model);
  return Owned<OrtSession>(session);
}

Owned<OrtEnv> new_environment() {
  OrtEnv* environment = nullptr;
  check(api().CreateEnv(ORT_LOGGING_LEVEL_FATAL, "seqexport", &environment), "ONNX Runtime " + version());
  return Owned<OrtEnv>(environment);
}

using Count = OrtStatus*(ORT_API_CALL*)(const OrtSession*, size_t*);
using Name = OrtStatus*(ORT_API_CALL*)(const OrtSession*, size_t, OrtAllocator*, char**);

std::set<std::string> names(const OrtSession& session, Count count_of, Name name_of) {
  const std::string here = "ONNX Runtime " + version();
  OrtAllocator* allocator = nullptr;
  size_t count = 0;
  check(api().GetAllocatorWithDefaultOptions(&allocator), here);
  check(count_of(&session, &count), here);
  std::set<std::string> all;
  for (size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    check(name_of(&session, i, allocator, &name), here);
    all.insert(name);
    check(api().AllocatorFree(allocator, name), here);
  }
  return all;
}

}  // namespace

OrtEngine::OrtEngine(const Bundle& bundle, const EngineOptions& options)
    : Engine(bundle), ops_(find_ops(bundle, options)),
      caches_in_place_(bundle.caches_in_place || (ops_.library && bundle.ops.count("CausalAttention"))) {
  if (options.device != 0)
    throw BadArgument("device " + std::to_string(options.device) + ": ONNX Runtime runs on the CPU here, device 0");
  check_runs(bundle, ops_);
  environment_ = new_environment();
  session_ = opened(*environment_, bundle, ops_, options.threads);
  check_interface();
}

void OrtEngine::check_interface() const {
  std::set<std::string> inputs, outputs(bundle().outputs.begin(), bundle().outputs.end());
  for (const Input& input : bundle().inputs) inputs.insert(input.name);
  if (names(*session_, api().SessionGetInputCount, api().SessionGetInputName) != inputs ||
      names(*session_, api().SessionGetOutputCount, api().SessionGetOutputName) != outputs)
    throw UserError(bundle().model.file.string() +
                    ": its inputs and outputs are not those that seqexport.json lists; export the model again");
}

bool OrtEngine::reads(const std::string& input) const {
  for (const Input& each : bundle().inputs)
    if (each.name == input) return true;
  return false;
}

std::unique_ptr<seqexport::States> OrtEngine::states(size_t batch, size_t capacity) const {
  return std::make_unique<OrtStates>(*this, batch, capacity);
}

std::string OrtEngine::description() const {
  const std::string ops = bundle().ops.empty() ? "" : ", " + ops_.description();
  return "ONNX Runtime " + version() + ", CPU, target " + bundle().target + ops;
}

}  // namespace ort

std::shared_ptr<const Engine> open_engine(const Bundle& bundle, const EngineOptions& options) {
  return std::make_shared<const ort::OrtEngine>(bundle, options);
}

}  // namespace seqexport
