// What a bundle says of its graph: seqexport.json, as far as a builder needs it. runtimes/manifest.py defines it all.
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

struct Model {
  std::filesystem::path file;
  std::string sha256;
  std::string weights_sha256;  // of a bundle's weights file; empty where that is not known
};

struct Bundle {
  std::filesystem::path folder;
  std::string dtype;                // float32, float16, bfloat16
  std::string target;               // portable, ort, tensorrt
  std::optional<int64_t> capacity;  // of its key/value caches, in tokens
  std::vector<Input> inputs;
  std::map<std::string, int64_t> ops;  // nodes of each of our ops
  Model model;
};

// Opens a bundle and checks the graph and its weights: their sha256, and that they lie in it. Throws UserError.
Bundle open_bundle(const std::filesystem::path& folder);

}  // namespace seqexport
