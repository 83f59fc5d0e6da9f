// Optimisation profiles: the shapes that an engine takes.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "manifest.h"

namespace seqexport {

using Shape = std::vector<int64_t>;
using Shapes = std::map<std::string, Shape>;  // by input

struct ShapeRange {
  Shape min, opt, max;
};

struct Profile {
  std::string name;
  std::map<std::string, ShapeRange> inputs;
};

// --minShapes, --optShapes and --maxShapes. A shape sets its named axes in every input that has them.
struct GivenShapes {
  Shapes min, opt, max;

  bool empty() const { return min.empty() && opt.empty() && max.empty(); }
};

// A bundle's profiles: prefill (0) and decode (1, one token). Batch 1 to 4, seq 1 to min(capacity, 2048), the cache's
// axis 1 to the capacity, unless given otherwise. Throws UserError for shapes that do not fit the inputs.
std::vector<Profile> bundle_profiles(const Bundle& bundle, const GivenShapes& given);

// Any other graph's: none if every axis is fixed, else one, all of whose axes must be given. Throws UserError.
std::vector<Profile> plain_profiles(const std::vector<Input>& inputs, const GivenShapes& given);

}  // namespace seqexport
