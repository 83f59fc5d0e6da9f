#include "error.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace seqexport {
namespace {

constexpr char kStandIn[] = "\xEF\xBF\xBD";  // U+FFFD

// The bytes at the front that a terminal would obey: a control character, or a mark that turns a text's direction.
size_t obeyed(std::string_view text) {
  const auto between = [&](size_t at, uint8_t low, uint8_t high) {
    return at < text.size() && uint8_t(text[at]) >= low && uint8_t(text[at]) <= high;
  };
  if (between(0, 0, 0x1F) || between(0, 0x7F, 0x7F)) return 1;
  if (between(0, 0xC2, 0xC2) && between(1, 0x80, 0x9F)) return 2;
  const bool turns = (between(1, 0x80, 0x80) && between(2, 0xAA, 0xAE)) ||
                     (between(1, 0x81, 0x81) && between(2, 0xA6, 0xA9));
  return between(0, 0xE2, 0xE2) && turns ? 3 : 0;
}

}  // namespace

std::string plain(const std::string& text, const std::string& kept) {
  std::string shown;
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = kept.find(text[at]) == std::string::npos ? obeyed(std::string_view(text).substr(at)) : 0;
    shown += bytes ? std::string(kStandIn) : text.substr(at, 1);
    at += std::max<size_t>(bytes, 1);
  }
  return shown;
}

}  // namespace seqexport
