#include "memory.h"

#include <cstdio>
#include <fstream>

namespace {

// A line "NAME:  VALUE kB" of a file in /proc, in bytes; 0 if it has none.
double bytes(const char* file, const std::string& name) {
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);)
    if (line.rfind(name + ":", 0) == 0) return 1024 * std::stod(line.substr(name.size() + 1));
  return 0;
}

}  // namespace

std::string memory() {
  char text[96];
  std::snprintf(text, sizeof text, "this process %.0f MB, %.1f of %.1f GB free", bytes("/proc/self/status", "VmRSS") / 1e6,
                bytes("/proc/meminfo", "MemAvailable") / 1e9, bytes("/proc/meminfo", "MemTotal") / 1e9);
  return text;
}
