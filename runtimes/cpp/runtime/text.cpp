#include "text.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "files.h"

namespace seqexport {
namespace {

using nlohmann::json;

constexpr char kUnreadable[] = "\xEF\xBF\xBD";  // U+FFFD

// The bytes of a character, by its first one; 0 for a byte that begins none.
size_t bytes_of_character(unsigned char first) {
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  return first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

std::string utf8(unsigned code) {  // below U+0800
  if (code < 0x80) return std::string(1, char(code));
  return {char(0xC0 | code >> 6), char(0x80 | (code & 0x3F))};
}

// How tokenizers of bytes spell them: printable characters of Latin-1 as they are, the others from U+0100 on.
std::array<std::string, 256> spellings() {
  std::array<std::string, 256> all;
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    all[byte] = utf8(printable ? byte : next++);
  }
  return all;
}

bool is_empty(const json& part, const char* name) {
  const auto found = part.find(name);
  return found == part.end() || found->empty() || *found == "";
}

bool is_byte_level(const json& part) { return part.is_object() && part.value("type", "") == "ByteLevel"; }

// Whether nothing but the vocabulary says which tokens a text has: one for each byte, and back.
bool is_of_bytes(const json& file) {
  const json &model = file.at("model"), &before = file.at("pre_tokenizer");
  if (!is_byte_level(before) || before.at("add_prefix_space").get<bool>() || !is_byte_level(file.at("decoder")))
    return false;
  if (!is_empty(file, "normalizer") || !is_empty(file, "added_tokens")) return false;
  if (!is_empty(file, "post_processor") && !is_byte_level(file.at("post_processor"))) return false;
  return model.at("type") == "BPE" && model.at("vocab").size() == 256 && is_empty(model, "merges") &&
         is_empty(model, "continuing_subword_prefix") && is_empty(model, "end_of_word_suffix");
}

json tokenizer_of(const Bundle& bundle) {
  const std::string folder = bundle.folder.string();
  if (bundle.tokenizer.empty())
    throw NoText(folder + ": has no tokenizer.json; give and take tokens, or put one beside the checkpoint's weights "
                          "and export again");
  check_file(bundle.folder, "tokenizer.json", bundle.tokenizer);
  const std::filesystem::path file = bundle.folder / "tokenizer.json";
  json parsed = json::parse(read_file(file, kWords));
  if (!is_of_bytes(parsed))
    throw NoText(file.string() + ": no tokenizer of bytes, and C++ has no other; give and take tokens, which Python makes "
                                 "of text: seqexport tokens " + folder);
  return parsed;
}

}  // namespace

bool Characters::goes_on_with(unsigned char byte) const {
  if (byte < 0x80 || byte > 0xBF) return false;
  if (pending_.size() > 1) return true;
  switch (static_cast<unsigned char>(pending_[0])) {  // no character twice, no half of a pair, none past U+10FFFF
    case 0xE0: return byte >= 0xA0;
    case 0xED: return byte <= 0x9F;
    case 0xF0: return byte >= 0x90;
    case 0xF4: return byte <= 0x8F;
    default: return true;
  }
}

std::string Characters::take(std::string whole) {
  if (told_) whole.clear();
  told_ = false;
  pending_.clear();
  return whole;
}

std::string Characters::begin(unsigned char byte) {
  const size_t size = bytes_of_character(byte);
  if (size == 0) return kUnreadable;
  if (size == 1) return std::string(1, char(byte));
  pending_ = char(byte);
  return "";
}

std::string Characters::push(unsigned char byte) {
  if (pending_.empty()) return begin(byte);
  if (!goes_on_with(byte)) {
    const std::string before = take(kUnreadable);
    return before + begin(byte);
  }
  pending_ += char(byte);
  const bool whole = pending_.size() == bytes_of_character(static_cast<unsigned char>(pending_[0]));
  return whole ? take(pending_) : "";
}

std::string Characters::finish() {
  if (pending_.empty() || told_) return "";
  told_ = true;
  return kUnreadable;
}

ByteTokenizer::ByteTokenizer(const Bundle& bundle) {
  try {
    const json file = tokenizer_of(bundle);
    const std::array<std::string, 256> names = spellings();
    for (unsigned byte = 0; byte < 256; ++byte) {
      tokens_[byte] = file["model"]["vocab"].at(names[byte]).get<int64_t>();
      bytes_[tokens_[byte]] = static_cast<unsigned char>(byte);
    }
  } catch (const json::exception& error) {
    throw NoText((bundle.folder / "tokenizer.json").string() + " cannot be read: " + error.what());
  }
}

std::vector<int64_t> ByteTokenizer::encode(std::string_view text) const {
  Characters characters;
  std::string valid;
  for (const char byte : text) valid += characters.push(static_cast<unsigned char>(byte));
  valid += characters.finish();
  std::vector<int64_t> tokens;
  for (const char byte : valid) tokens.push_back(tokens_[static_cast<unsigned char>(byte)]);
  return tokens;
}

std::string ByteTokenizer::push(Characters& characters, int64_t token) const {
  const auto found = bytes_.find(token);
  return found == bytes_.end() ? "" : characters.push(found->second);
}

bool generate_text(Session& session, const ByteTokenizer& tokenizer, size_t max_new_tokens,
                   const std::optional<Sampling>& sampling, const OnText& on_text) {
  if (const size_t batch = session.batch(); batch != 1)
    throw BadArgument("a session of " + std::to_string(batch) + " sequences: expected one, whose text goes on");
  Characters characters;
  for (const int64_t token : session.recent()) tokenizer.push(characters, token);
  characters.finish();
  bool goes_on = true;
  const bool cancelled = session.generate(max_new_tokens, sampling, [&](const int64_t* token) {
    const std::string text = tokenizer.push(characters, *token);
    return goes_on = text.empty() || on_text(text);
  });
  const std::string rest = goes_on ? characters.finish() : "";
  if (!rest.empty()) on_text(rest);
  return cancelled;
}

}  // namespace seqexport
