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

bool is_control(const std::string& text, size_t at) {
  const auto byte = uint8_t(text[at]), next = uint8_t(at + 1 < text.size() ? text[at + 1] : 'x');
  return byte < ' ' || byte == 127 || (byte == 0xC2 && next >= 0x80 && next < 0xA0);
}

}  // namespace

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not true: %s\n", what);
  std::abort();
}

void require_line(const std::string& text) {
  require(!text.empty(), "a refusal says why");
  for (size_t at = 0; at < text.size(); ++at) require(!is_control(text, at), "a refusal is one line");
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
  if (!expected) std::fprintf(stderr, "status %d: %s\n", int(status), said.c_str());
  require(expected, "a refusal has the status of its kind");
  require_line(said);
  return false;
}

}  // namespace fuzz
