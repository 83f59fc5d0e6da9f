#include "tool.h"

#include <cstdio>
#include <new>
#include <string>

#include "error.h"

namespace seqexport {

std::vector<Flag> engine_flags(EngineOptions& options) {
  const auto check_plugins = [&options](const char* other) {
    if (!options.use_plugins && !options.plugins.empty()) throw UserError(std::string("excludes ") + other);
  };
  return {
      {"--plugins", "FILE", "The library of our ops [default: the one that 'seqexport plugins build' made].",
       [&options, check_plugins](const std::string& v) { options.plugins = v, check_plugins("--no-plugins"); }},
      {"--no-plugins", nullptr, "Compute the ops' function bodies instead.",
       [&options, check_plugins](const std::string&) { options.use_plugins = false, check_plugins("--plugins"); }},
      {"--device", "N", "The GPU, as CUDA counts them [default: 0].",
       [&options](const std::string& value) { options.device = int(whole_number(value, 0)); }},
      {"--threads", "N", "Of the CPU [default: every core that it may use].",
       [&options](const std::string& value) { options.threads = int(whole_number(value, 1)); }},
  };
}

int64_t whole_number(const std::string& text, int64_t low) {
  const auto value = number(text, low);
  if (!value) throw UserError("'" + text + "': expected a whole number of at least " + std::to_string(low));
  return *value;
}

bool tells(const std::string& program, const CommandLine& line, const std::string& help) {
  if (line.help)
    std::printf("%s", help.c_str());
  else if (line.version)
    std::printf("%s %s\n", program.c_str(), seqexport_version());
  return line.help || line.version;
}

int run_tool(int count, char** words, int (*tool)(const std::vector<std::string>&)) try {
  return tool({words + 1, words + count});
} catch (const std::bad_alloc&) {
  std::fprintf(stderr, "error: out of memory\n");
  return 2;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", plain(error.what()).c_str());
  return 2;
}

}  // namespace seqexport
