#include "options.h"

#include <getopt.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>

namespace {

enum Flag { kHelp = 1, kSession, kPlugins, kNoPlugins, kThreads, kCapacity, kMaxNewTokens, kTemperature, kTopK, kTopP, kSeed };

const option kFlags[] = {{"help", no_argument, nullptr, kHelp},
                         {"session", required_argument, nullptr, kSession},
                         {"plugins", required_argument, nullptr, kPlugins},
                         {"no-plugins", no_argument, nullptr, kNoPlugins},
                         {"threads", required_argument, nullptr, kThreads},
                         {"capacity", required_argument, nullptr, kCapacity},
                         {"max-new-tokens", required_argument, nullptr, kMaxNewTokens},
                         {"temperature", required_argument, nullptr, kTemperature},
                         {"top-k", required_argument, nullptr, kTopK},
                         {"top-p", required_argument, nullptr, kTopP},
                         {"seed", required_argument, nullptr, kSeed},
                         {nullptr, 0, nullptr, 0}};

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why + "; assistant --help lists the flags"); }

uint64_t whole(const std::string& text, uint64_t low, uint64_t high) {
  errno = 0;
  char* end = nullptr;
  const uint64_t value = std::strtoull(text.c_str(), &end, 10);
  const bool digits = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!digits || errno || value < low || value > high)
    refuse("'" + text + "': expected a whole number of " + std::to_string(low) + " to " + std::to_string(high));
  return value;
}

double real(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end || !std::isfinite(value)) refuse("'" + text + "': expected a number");
  return value;
}

// Whether it is a flag of sampling.
bool set(Options& o, int flag, const std::string& value) {
  switch (flag) {
    case kSession: o.session = value; return false;
    case kPlugins: o.engine.plugins = value; return false;
    case kNoPlugins: o.engine.use_plugins = false; return false;
    case kThreads: o.engine.threads = int(whole(value, 1, 1024)); return false;
    case kCapacity: o.capacity = whole(value, 1, 1 << 30); return false;
    case kMaxNewTokens: o.max_new_tokens = whole(value, 1, 1 << 30); return false;
    case kTemperature: o.sampling.temperature = real(value); return true;
    case kTopK: o.sampling.top_k = int64_t(whole(value, 0, 1 << 30)); return true;
    case kTopP: o.sampling.top_p = real(value); return true;
    case kSeed: o.sampling.seed = whole(value, 0, UINT64_MAX); return true;
    default: refuse("a flag that is not known, or lacks its value");
  }
}

}  // namespace

Options parse(int count, char** words) {
  Options options;
  opterr = 0;
  for (int flag; (flag = getopt_long(count, words, "", kFlags, nullptr)) != -1;) {
    if (flag == kHelp) return {};
    if (flag == '?') refuse(std::string(words[optind - 1]) + ": not known, or without its value");
    options.samples = set(options, flag, optarg ? optarg : "") || options.samples;
  }
  if (count - optind != 1) refuse("expected one BUNDLE, got " + std::to_string(count - optind));
  options.bundle = words[optind];
  if (options.bundle.empty()) refuse("BUNDLE is empty");
  return options;
}
