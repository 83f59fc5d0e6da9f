// ONNX Runtime's C interface, and errors on our side of it: thrown within, an OrtStatus at the boundary.
#pragma once

#include <exception>
#include <string>
#include <vector>

#include "onnxruntime_c_api.h"

namespace seqexport::ort {

// The oldest interface this library speaks (ONNX Runtime 1.18); newer runtimes still serve it.
constexpr uint32_t kApiVersion = 18;

// Set once by RegisterCustomOps, before anything else here runs.
const OrtApi& api();
void set_api(const OrtApi* api);

// What a caller gets as an OrtStatus: "CausalConv1d: input weight: expected ..., got ...".
class Refused : public std::exception {
 public:
  Refused(OrtErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}
  OrtErrorCode code() const { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  OrtErrorCode code_;
  std::string message_;
};

// Throws what ONNX Runtime itself answers, in its words.
void check(OrtStatus* status);

// Runs `body`; an exception becomes the status it returns.
template <class Body>
OrtStatus* guarded(Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Refused& e) {
    return api().CreateStatus(e.code(), e.what());
  } catch (const std::exception& e) {
    return api().CreateStatus(ORT_RUNTIME_EXCEPTION, e.what());
  } catch (...) {
    return api().CreateStatus(ORT_RUNTIME_EXCEPTION, "seqexport: unknown error");
  }
}

}  // namespace seqexport::ort
