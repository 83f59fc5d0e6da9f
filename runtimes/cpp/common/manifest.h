// What a bundle says of its graph: seqexport.json, as far as builder and runtime need it. runtimes/manifest.py defines
// it all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace seqexport {

// One axis of an input: a fixed size, or the name of one that a call chooses.
struct Axis {
  int64_t size = -1;
  std::string name;

  bool fixed() const { return name.empty(); }
};

struct Input {
  std::string name;
  std::vector<Axis> shape;
};

// What a call reads as one input and leaves as one output of the same shape.
struct State {
  std::string past, present;  // the graph's input and output
  std::string dtype;          // float32, float16, bfloat16
  std::vector<Axis> shape;

  bool grows() const;  // a cache with a row for each token, along axis 2; else of fixed size
};

// What makes the graph of a bundle a language model: tokens in, logits out.
struct LanguageModel {
  int64_t vocab_size = 0;
  std::vector<int64_t> eos_token_ids;
  bool all_logits = false;  // of every token, not of each sequence's last
};

struct Model {
  std::filesystem::path file;
  std::string sha256;
  std::string weights_sha256;  // of a bundle's weights file; empty where that is not known
};

struct Bundle {
  std::filesystem::path folder;
  std::string dtype;                // float32, float16, bfloat16
  std::string target;               // portable, ort, tensorrt
  int opset = 0;
  std::optional<int64_t> capacity;  // of its key/value caches, in tokens
  std::vector<Input> inputs;
  std::vector<std::string> outputs;
  std::vector<State> states;
  std::map<std::string, int64_t> ops;  // nodes of each of our ops
  std::optional<LanguageModel> language_model;
  bool caches_in_place = false;  // a cache's past and present may be one memory, which a padded call must fit into
  std::string weights;           // sha256 of the weights as they were exported; empty where that is not known
  std::string tokenizer;         // sha256 of its tokenizer.json; empty where it has none
  Model model;
};

// Opens a bundle and checks the graph and its weights: their sha256, and that they lie in it. Throws UserError.
Bundle open_bundle(const std::filesystem::path& folder);

// Throws UserError for a file of a bundle that is not as its manifest says, or lies outside the folder.
void check_file(const std::filesystem::path& folder, const std::string& name, const std::string& sha256);

}  // namespace seqexport
