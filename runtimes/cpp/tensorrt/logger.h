// Keeps what TensorRT complains of, so that a failure can be told in one line.
#pragma once

#include <NvInferRuntime.h>

#include <mutex>
#include <string>
#include <vector>

namespace seqexport {

class Logger : public nvinfer1::ILogger {
 public:
  // `verbose` prints everything to stderr.
  explicit Logger(bool verbose) : verbose_(verbose) {}

  void log(Severity severity, const char* message) noexcept override;

  // The first complaint of one of our plugins, else the first of all, else nothing.
  std::string cause() const;
  bool has_plugin_complaint() const;
  void forget();

 private:
  std::string plugin_complaint() const;

  const bool verbose_;
  mutable std::mutex mutex_;
  std::vector<std::string> errors_;
};

// Whether what TensorRT complains of is that memory ran out.
bool is_out_of_memory(const std::string& cause);

// `text` with every run of white space as one space.
std::string one_line(const std::string& text);

}  // namespace seqexport
