#include "logger.h"

#include <cstdio>
#include <sstream>

#include "error.h"

namespace seqexport {
namespace {

constexpr char kOurs[] = "seqexport: ";  // what our plugins' messages begin with
constexpr size_t kKept = 64;

}  // namespace

void Logger::log(Severity severity, const char* message) noexcept try {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (verbose_) std::fprintf(stderr, "%s\n", plain(message, "\n\t").c_str());
  if (severity <= Severity::kERROR && errors_.size() < kKept) errors_.push_back(one_line(message));
} catch (const std::exception&) {
  std::fprintf(stderr, "TensorRT tells something, and there is no memory for it\n");
}

std::string Logger::plugin_complaint() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const std::string& error : errors_) {
    const size_t ours = error.find(kOurs);
    if (ours != std::string::npos) return error.substr(ours + sizeof kOurs - 1);
  }
  return "";
}

bool Logger::has_plugin_complaint() const { return !plugin_complaint().empty(); }

std::string Logger::cause() const {
  const std::string complaint = plugin_complaint();
  if (!complaint.empty()) return complaint;
  const std::lock_guard<std::mutex> lock(mutex_);
  return errors_.empty() ? "" : errors_.front();
}

void Logger::forget() {
  const std::lock_guard<std::mutex> lock(mutex_);
  errors_.clear();
}

bool is_out_of_memory(const std::string& cause) {
  return cause.find("OutOfMemory") != std::string::npos || cause.find("out of memory") != std::string::npos;
}

std::string one_line(const std::string& text) {
  std::istringstream words(text);
  std::string line, word;
  while (words >> word) line += (line.empty() ? "" : " ") + word;
  return line;
}

}  // namespace seqexport
