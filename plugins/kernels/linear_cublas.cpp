#include "linear_cublas.h"

#include <list>
#include <map>
#include <mutex>
#include <tuple>

#include "cublaslt.h"

namespace seqexport {
namespace {

using cublaslt::Library;
using cublaslt::library;

constexpr size_t kMostPlans = 256;  // of a device: every length of a prompt is one for each of a model's products

struct Product {
  const void *weight, *bias;
  void* y;
  int32_t features;
};

unsigned alignment(const void* p) {
  const uintptr_t lowest = reinterpret_cast<uintptr_t>(p) & (~reinterpret_cast<uintptr_t>(p) + 1);
  return lowest == 0 || lowest > 256 ? 256 : unsigned(lowest);
}

// What a product looks like to cuBLASLt, and how it computes it. It counts columns first: y^T [N,M] = weight [N,K] x^T.
struct Plan {
  cublaslt::MatmulDesc desc = nullptr;
  cublaslt::MatrixLayout weight = nullptr, x = nullptr, y = nullptr;
  cublaslt::HeuristicResult how = {};
  bool ok = false;
};

// Whether a graph is being captured from the stream: nothing may then ask the device for memory or wait for it, as
// cuBLASLt may where it is opened or asked for a plan.
bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) != cudaSuccess || status != cudaStreamCaptureStatusNone;
}

// The plans of one device, the ones used last. A call holds the lock until its product is queued.
class Context {
 public:
  explicit Context(const Library& library) : library_(library), ok_(library.cublasLtCreate(&handle_) == 0) {}

  cudaError_t multiply(const LinearParams& p, const Product& product, cudaStream_t stream) {
    if (!ok_) return cudaErrorInitializationError;
    const std::lock_guard<std::mutex> lock(mutex_);
    const Plan* plan = plan_for(p, product, stream);
    if (!plan) return cudaErrorStreamCaptureUnsupported;
    if (!plan->ok) return cudaErrorNotSupported;
    const float one = 1.f, zero = 0.f;
    const bool queued =
        (!product.bias || set(plan->desc, cublaslt::kBiasPointer, product.bias)) &&
        library_.cublasLtMatmul(handle_, plan->desc, &one, product.weight, plan->weight, p.x, plan->x, &zero, product.y,
                                plan->y, product.y, plan->y, &plan->how.algorithm, p.workspace,
                                plan->how.workspace_bytes, stream) == 0;
    return queued ? cudaSuccess : cudaErrorLaunchFailure;
  }

 private:
  using Key = std::tuple<int32_t, int32_t, int32_t, int32_t, bool, unsigned, unsigned, unsigned, size_t>;
  using Plans = std::list<std::pair<Key, Plan>>;  // the one used last in front

  // Null where it would have to be made while a graph is captured.
  const Plan* plan_for(const LinearParams& p, const Product& product, cudaStream_t stream) {
    const size_t room = p.workspace ? p.workspace_bytes : 0;
    const unsigned alignments[] = {alignment(product.weight), alignment(p.x), alignment(product.y)};
    const Key key = {p.dtype,       p.rows,        p.in_features, product.features, product.bias != nullptr,
                     alignments[0], alignments[1], alignments[2], room};
    if (const auto known = places_.find(key); known != places_.end()) {
      plans_.splice(plans_.begin(), plans_, known->second);
      return &plans_.front().second;
    }
    if (is_capturing(stream)) return nullptr;
    if (plans_.size() >= kMostPlans) drop_oldest();
    plans_.emplace_front(key, make_plan(p, product, alignments, room));
    places_[key] = plans_.begin();
    return &plans_.front().second;
  }

  void drop_oldest() {
    const Plan& plan = plans_.back().second;
    if (plan.desc) library_.cublasLtMatmulDescDestroy(plan.desc);
    for (const cublaslt::MatrixLayout layout : {plan.weight, plan.x, plan.y}) {
      if (layout) library_.cublasLtMatrixLayoutDestroy(layout);
    }
    places_.erase(plans_.back().first);
    plans_.pop_back();
  }

  Plan make_plan(const LinearParams& p, const Product& product, const unsigned (&alignments)[3], size_t room) {
    static constexpr cudaDataType_t types[] = {CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF};
    const cudaDataType_t type = types[p.dtype];
    const int64_t K = p.in_features, N = product.features, M = p.rows;
    Plan plan;
    cublaslt::Preference preference = nullptr;
    const bool described = library_.cublasLtMatmulDescCreate(&plan.desc, cublaslt::kFloat32, CUDA_R_32F) == 0 &&
                           set(plan.desc, cublaslt::kTransA, cublaslt::kTranspose) &&
                           (!product.bias || set(plan.desc, cublaslt::kEpilogue, cublaslt::kBias)) &&
                           library_.cublasLtMatrixLayoutCreate(&plan.weight, type, uint64_t(K), uint64_t(N), K) == 0 &&
                           library_.cublasLtMatrixLayoutCreate(&plan.x, type, uint64_t(K), uint64_t(M), K) == 0 &&
                           library_.cublasLtMatrixLayoutCreate(&plan.y, type, uint64_t(N), uint64_t(M), N) == 0 &&
                           library_.cublasLtMatmulPreferenceCreate(&preference) == 0;
    if (!described) return plan;
    const auto prefer = [&](cublaslt::PreferenceAttribute attribute, const auto& value) {
      return library_.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value) == 0;
    };
    int found = 0;
    plan.ok = prefer(cublaslt::kMaxWorkspace, uint64_t(room)) &&
              prefer(cublaslt::kReductionSchemes, cublaslt::kInComputeType) && prefer(cublaslt::kAlignmentA, alignments[0]) &&
              prefer(cublaslt::kAlignmentB, alignments[1]) && prefer(cublaslt::kAlignmentC, alignments[2]) &&
              prefer(cublaslt::kAlignmentD, alignments[2]) &&
              library_.cublasLtMatmulAlgoGetHeuristic(handle_, plan.desc, plan.weight, plan.x, plan.y, plan.y,
                                                      preference, 1, &plan.how, &found) == 0 &&
              found == 1;
    library_.cublasLtMatmulPreferenceDestroy(preference);
    return plan;
  }

  template <typename Value>
  bool set(cublaslt::MatmulDesc desc, cublaslt::DescAttribute attribute, const Value& value) {
    return library_.cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof value) == 0;
  }

  const Library& library_;
  cublaslt::Handle handle_ = nullptr;
  const bool ok_;
  std::mutex mutex_;
  Plans plans_;
  std::map<Key, Plans::iterator> places_;
};

struct Contexts {
  std::mutex mutex;
  std::map<int, Context> of_device;
};

// The current device's; null where it would have to be made while a graph is captured. They live as long as the
// process, since CUDA may be gone before the library's end.
Context* context(cudaStream_t stream) {
  static auto* const contexts = new Contexts();
  int device = 0;
  cudaGetDevice(&device);
  const std::lock_guard<std::mutex> lock(contexts->mutex);
  const auto made = contexts->of_device.find(device);
  if (made != contexts->of_device.end()) return &made->second;
  if (is_capturing(stream)) return nullptr;
  return &contexts->of_device.try_emplace(device, library()).first->second;
}

}  // namespace

const char* linear_fault() { return library().fault.c_str(); }

cudaError_t linear_cublas(const LinearParams& p, cudaStream_t stream) {
  if (!library().fault.empty()) return cudaErrorSharedObjectInitFailed;
  Context* const here = context(stream);
  if (!here) return cudaErrorStreamCaptureUnsupported;
  for (const Product& product : {Product{p.weight, p.bias, p.y, p.out_features},
                                 Product{p.weight1, p.bias1, p.y1, p.out_features1},
                                 Product{p.weight2, p.bias2, p.y2, p.out_features2}}) {
    if (product.features == 0) continue;
    if (const cudaError_t e = here->multiply(p, product, stream); e != cudaSuccess) return e;
  }
  return cudaSuccess;
}

}  // namespace seqexport
