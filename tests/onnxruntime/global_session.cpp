// A session with the op library in a static object of the program, which runs it once more when it is destroyed: after
// the statics of the library, which was loaded later, and before those of ONNX Runtime, which it used first.
//
//   global_session libseqexport_ort.so MODEL     MODEL: one CausalConv1d, float32, from x, weight and past to y
//
// Prints y from within main and from the destructor, a line each.
#include <onnxruntime_c_api.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

const OrtApi* const api = OrtGetApiBase()->GetApi(18);

void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::fprintf(stderr, "%s\n", api->GetErrorMessage(status));
  std::_Exit(1);
}

OrtValue* tensor(std::vector<float>& data, const std::vector<int64_t>& shape) {
  OrtMemoryInfo* memory = nullptr;
  OrtValue* value = nullptr;
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(api->CreateTensorWithDataAsOrtValue(memory, data.data(), data.size() * sizeof(float), shape.data(),
                                            shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
  api->ReleaseMemoryInfo(memory);
  return value;
}

class Global {
 public:
  Global() {
    check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "global", &environment_));
    inputs_ = {tensor(x_, {1, 2, 2}), tensor(weight_, {2, 2}), tensor(past_, {1, 2, 1})};
  }
  ~Global() {
    run();
    for (const OrtValue* value : inputs_) api->ReleaseValue(const_cast<OrtValue*>(value));
    api->ReleaseSession(session_);
    api->ReleaseEnv(environment_);
  }

  void open(const char* library, const char* model) {
    OrtSessionOptions* options = nullptr;
    check(api->CreateSessionOptions(&options));
    check(api->SetIntraOpNumThreads(options, 1));
    check(api->RegisterCustomOpsLibrary_V2(options, library));
    check(api->CreateSession(environment_, model, options, &session_));
    api->ReleaseSessionOptions(options);
  }

  void run() const {
    const char* const names[] = {"x", "weight", "past"};
    const char* const outputs[] = {"y"};
    OrtValue* y = nullptr;
    float* values = nullptr;
    check(api->Run(session_, nullptr, names, inputs_.data(), inputs_.size(), outputs, 1, &y));
    check(api->GetTensorMutableData(y, reinterpret_cast<void**>(&values)));
    std::printf("%g %g %g %g\n", values[0], values[1], values[2], values[3]);
    api->ReleaseValue(y);
  }

 private:
  std::vector<float> x_{1, 2, 3, 4}, weight_{1, 0, 0.5f, 2}, past_{0, 0};
  std::vector<const OrtValue*> inputs_;
  OrtEnv* environment_ = nullptr;
  OrtSession* session_ = nullptr;
};

}  // namespace

int main(int, char** arguments) {
  static Global global;
  global.open(arguments[1], arguments[2]);
  global.run();
}
