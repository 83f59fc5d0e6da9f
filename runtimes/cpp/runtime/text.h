// Text in and out of a session where each token is a byte, as in the shipped models. runtimes/tokenizer.py has tokenizers of
// every kind.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "session.h"

namespace seqexport {

// Bytes that come one by one, as characters of UTF-8. What is none becomes U+FFFD, as Python's decode("utf-8", "replace")
// has it.
class Characters {
 public:
  // The text that became certain with this byte.
  std::string push(unsigned char byte);
  // The rest: U+FFFD for a character of which not all bytes came. Bytes that would still have completed it are then
  // swallowed.
  std::string finish();

 private:
  bool goes_on_with(unsigned char byte) const;
  std::string begin(unsigned char byte);
  std::string take(std::string whole);

  std::string pending_;  // of a character, not yet whole
  bool told_ = false;    // as U+FFFD, by finish()
};

// Text cannot be had of a bundle.
struct NoText : UserError {
  using UserError::UserError;
};

// A bundle's tokenizer.json, where it makes a token of each byte.
class ByteTokenizer {
 public:
  // Throws NoText if the bundle has none, or one of another kind, or it cannot be read.
  explicit ByteTokenizer(const Bundle& bundle);

  // Bytes that are no UTF-8 are replaced.
  std::vector<int64_t> encode(std::string_view text) const;
  // Adds the token's byte; nothing for a token that has none, of a vocabulary that is padded.
  std::string push(Characters& characters, int64_t token) const;

 private:
  std::array<int64_t, 256> tokens_{};
  std::map<int64_t, unsigned char> bytes_;
};

// Called with text as soon as it is whole characters. False ends the generation.
using OnText = std::function<bool(std::string_view)>;

// Session::generate for the text of one sequence, which goes on rightly after the tokens that the session has read. Throws
// as that does, and BadArgument for several sequences.
bool generate_text(Session& session, const ByteTokenizer& tokenizer, size_t max_new_tokens,
                   const std::optional<Sampling>& sampling, const OnText& on_text);

}  // namespace seqexport
