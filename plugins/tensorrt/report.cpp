#include <cstdio>

#include "host.h"
#include "tensorrt.h"

namespace seqexport::tensorrt {

void report(const std::string& message) noexcept try {
  const std::string text = "seqexport: " + message;
  if (nvinfer1::ILogger* logger = find_logger()) {
    return logger->log(nvinfer1::ILogger::Severity::kERROR, text.c_str());
  }
  nvinfer1::IPluginRegistry* registry = find_registry();
  if (nvinfer1::IErrorRecorder* recorder = registry ? registry->getErrorRecorder() : nullptr) {
    recorder->reportError(nvinfer1::ErrorCode::kINVALID_ARGUMENT, text.c_str());
    return;
  }
  std::fprintf(stderr, "%s\n", text.c_str());
} catch (const std::exception&) {
  std::fprintf(stderr, "seqexport: out of memory while reporting an error\n");
}

void report(const Op& op, const char* node, const char* message) noexcept try {
  report(std::string(op.name) + " '" + (node ? node : "") + "': " + message);
} catch (const std::exception&) {
  std::fprintf(stderr, "seqexport: out of memory while reporting an error\n");
}

}  // namespace seqexport::tensorrt
