// A bundle in an ordinary ONNX Runtime session, with the library of our ops: greedy text, a token a call.
//
//   onnxruntime_example libseqexport_ort.so BUNDLE/model.onnx [TOKENS]
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace {

const OrtApi* const api = OrtGetApiBase()->GetApi(18);
OrtAllocator* allocator = nullptr;

void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::fprintf(stderr, "%s\n", api->GetErrorMessage(status));
  std::exit(1);
}

// An input of the session: a free axis of its shape is 1, but for a cache's, which has room for `room` tokens.
OrtValue* empty_state(const OrtSession* session, size_t index, int64_t room) {
  OrtTypeInfo* type = nullptr;
  const OrtTensorTypeAndShapeInfo* info = nullptr;
  ONNXTensorElementDataType element;
  size_t rank = 0;
  check(api->SessionGetInputTypeInfo(session, index, &type));
  check(api->CastTypeInfoToTensorInfo(type, &info));
  check(api->GetTensorElementType(info, &element));
  check(api->GetDimensionsCount(info, &rank));
  std::vector<int64_t> shape(rank);
  std::vector<const char*> axes(rank);
  check(api->GetDimensions(info, shape.data(), rank));
  check(api->GetSymbolicDimensions(info, axes.data(), rank));
  for (size_t i = 0; i < rank; ++i) {
    if (shape[i] < 0) shape[i] = std::string(axes[i]) == "max_len" ? room : 1;
  }
  OrtValue* value = nullptr;
  check(api->CreateTensorAsOrtValue(allocator, shape.data(), rank, element, &value));
  size_t elements = 1;
  for (const int64_t size : shape) elements *= size;
  void* data = nullptr;
  check(api->GetTensorMutableData(value, &data));
  std::fill_n(static_cast<char*>(data), elements * (element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4 : 2), '\0');
  api->ReleaseTypeInfo(type);
  return value;
}

template <class T>
OrtValue* tensor(std::vector<T>& data, const std::vector<int64_t>& shape, ONNXTensorElementDataType type) {
  OrtMemoryInfo* memory = nullptr;
  OrtValue* value = nullptr;
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(api->CreateTensorWithDataAsOrtValue(memory, data.data(), data.size() * sizeof(T), shape.data(), shape.size(),
                                            type, &value));
  api->ReleaseMemoryInfo(memory);
  return value;
}

std::vector<std::string> names(const OrtSession* session, size_t count,
                               OrtStatus*(ORT_API_CALL* get)(const OrtSession*, size_t, OrtAllocator*, char**)) {
  std::vector<std::string> all;
  for (size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    check(get(session, i, allocator, &name));
    all.emplace_back(name);
    check(api->AllocatorFree(allocator, name));
  }
  return all;
}

std::vector<const char*> pointers(const std::vector<std::string>& texts) {
  std::vector<const char*> all;
  for (const std::string& text : texts) all.push_back(text.c_str());
  return all;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return std::fprintf(stderr, "usage: %s LIBRARY MODEL [TOKENS]\n", arguments[0]), 2;
  const int64_t wanted = count > 3 ? std::atoi(arguments[3]) : 32, room = wanted + 1;

  OrtEnv* environment = nullptr;
  OrtSessionOptions* options = nullptr;
  OrtSession* session = nullptr;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "example", &environment));
  check(api->CreateSessionOptions(&options));
  check(api->RegisterCustomOpsLibrary_V2(options, arguments[1]));
  check(api->CreateSession(environment, arguments[2], options, &session));
  check(api->GetAllocatorWithDefaultOptions(&allocator));

  size_t input_count = 0, output_count = 0;
  check(api->SessionGetInputCount(session, &input_count));
  check(api->SessionGetOutputCount(session, &output_count));
  const auto inputs = names(session, input_count, api->SessionGetInputName);
  const auto outputs = names(session, output_count, api->SessionGetOutputName);
  std::vector<int64_t> token{1};
  std::vector<int32_t> one{1}, length{0};
  std::map<std::string, OrtValue*> values{
      {"input_ids", tensor(token, {1, 1}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)},
      {"seq_lens", tensor(one, {1}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32)},
      {"past_lens", tensor(length, {1}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32)}};
  for (size_t i = 0; i < input_count; ++i) {
    if (!values.count(inputs[i])) values[inputs[i]] = empty_state(session, i, room);
  }

  const auto input_names = pointers(inputs), output_names = pointers(outputs);
  for (; length[0] < wanted; ++length[0]) {
    std::vector<const OrtValue*> given;
    for (const std::string& name : inputs) given.push_back(values[name]);
    std::vector<OrtValue*> results(output_count, nullptr);
    check(api->Run(session, nullptr, input_names.data(), given.data(), input_count, output_names.data(), output_count,
                   results.data()));
    for (size_t i = 0; i < output_count; ++i) {
      const std::string prefix = "present.";
      if (outputs[i].rfind(prefix, 0) == 0) {
        OrtValue*& state = values["past_key_values." + outputs[i].substr(prefix.size())];
        std::swap(state, results[i]);
      } else {
        OrtTensorTypeAndShapeInfo* info = nullptr;
        size_t vocabulary = 0;
        float* logits = nullptr;
        check(api->GetTensorTypeAndShape(results[i], &info));
        check(api->GetTensorShapeElementCount(info, &vocabulary));
        check(api->GetTensorMutableData(results[i], reinterpret_cast<void**>(&logits)));
        token[0] = std::max_element(logits, logits + vocabulary) - logits;
        api->ReleaseTensorTypeAndShapeInfo(info);
      }
      api->ReleaseValue(results[i]);
    }
    std::printf("%lld%s", static_cast<long long>(token[0]), length[0] + 1 < wanted ? " " : "\n");
  }
  for (const auto& [name, value] : values) api->ReleaseValue(value);
  api->ReleaseSession(session);
  api->ReleaseSessionOptions(options);
  api->ReleaseEnv(environment);
}
