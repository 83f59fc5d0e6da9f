#include "reading.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace fuzz {
namespace {

namespace fs = std::filesystem;

struct Scratch {
  fs::path path = fs::path("/dev/shm") / ("seqexport-fuzz-" + std::to_string(getpid()));
  Scratch() { fs::create_directories(path); }
  ~Scratch() { fs::remove_all(path); }
};

bool is_one_line(const std::string& text) {
  return !text.empty() && std::none_of(text.begin(), text.end(), [](char c) { return uint8_t(c) < ' ' || c == 127; });
}

}  // namespace

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not true: %s\n", what);
  std::abort();
}

const fs::path& folder() {
  static const Scratch scratch;
  return scratch.path;
}

void write(const fs::path& file, std::string_view content) {
  std::ofstream(file, std::ios::binary).write(content.data(), std::streamsize(content.size()));
}

bool went_well(seqexport_status status, std::initializer_list<seqexport_status> refusals) {
  if (status == SEQEXPORT_OK) return true;
  const std::string said = seqexport_message();
  const bool expected = std::count(refusals.begin(), refusals.end(), status) != 0;
  if (!expected || !is_one_line(said)) std::fprintf(stderr, "status %d: %s\n", int(status), said.c_str());
  require(expected, "a refusal has the status of its kind");
  require(is_one_line(said), "a refusal is one line");
  return false;
}

}  // namespace fuzz
