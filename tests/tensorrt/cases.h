// Calls of our ops with what they shall answer, computed in float64.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

struct Array {
  char type;         // 'T', 'F' (float32) or 'I' (int32), as in the op's description
  std::string axes;  // a letter each; those of B (batch), L (length) and S (capacity) are not known at build time
  std::vector<int64_t> shape;
  std::vector<double> values;

  double& at(std::initializer_list<int64_t> index);
};
using Arrays = std::map<std::string, Array>;

struct Case {
  std::string op, label;
  std::vector<std::pair<std::string, std::variant<int32_t, float, std::string>>> attributes;
  std::vector<std::string> inputs;         // in order, the absent ones left out
  std::vector<std::string> outputs;        // in order
  std::map<std::string, std::string> kept;  // output -> the input whose memory it may share
  Arrays arrays;                            // values of the inputs
  void (*answer)(Arrays&, const Case&);     // puts the outputs beside them
  // An input -> the tensor [B,L,W] that is given for it: where the input begins in a token of it, and W.
  std::map<std::string, std::pair<int64_t, int64_t>> windows = {};

  double attribute(const std::string& name, double fallback) const;
  bool has(const std::string& input) const { return arrays.count(input) != 0; }
};

// What is given for an input in such a window: other values beside it.
Array widened(const Array& input, int64_t first, int64_t width);

// Every op with all of its inputs and with only those it needs, on ragged rows, in prefill and in decode.
std::vector<Case> cases();
