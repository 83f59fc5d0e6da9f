#include "profiles.h"

#include <algorithm>

#include "error.h"

namespace seqexport {
namespace {

constexpr int64_t kMaxPrompt = 2048, kOptPrompt = 512, kMaxBatch = 4;

struct Range {
  int64_t min, opt, max;
};

using Sizes = std::map<std::string, int64_t>;  // by axis
using Ranges = std::map<std::string, Range>;   // by axis

std::string text_of(const Shape& shape) {
  std::string text;
  for (int64_t size : shape) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text;
}

std::string text_of(const std::vector<Axis>& shape) {
  std::string text;
  for (const Axis& axis : shape)
    text += (text.empty() ? "" : "x") + (axis.fixed() ? std::to_string(axis.size) : axis.name);
  return text;
}

const Input& input_named(const std::vector<Input>& inputs, const std::string& name, const std::string& flag) {
  std::string names;
  for (const Input& input : inputs) {
    if (input.name == name) return input;
    names += (names.empty() ? "" : ", ") + input.name;
  }
  throw UserError(flag + ": the graph has no input " + name + "; it has " + names);
}

// The size that each named axis has in `shapes`.
Sizes axis_sizes(const std::vector<Input>& inputs, const Shapes& shapes, const std::string& flag) {
  Sizes sizes;
  for (const auto& [name, shape] : shapes) {
    const Input& input = input_named(inputs, name, flag);
    const std::string what = flag + " " + name + ":" + text_of(shape);
    const UserError mismatch(what + ": the input's shape is " + text_of(input.shape));
    if (shape.size() != input.shape.size()) throw mismatch;
    for (size_t i = 0; i < shape.size(); ++i) {
      const Axis& axis = input.shape[i];
      if (axis.fixed() && axis.size != shape[i]) throw mismatch;
      if (axis.fixed()) continue;
      const auto [known, is_new] = sizes.emplace(axis.name, shape[i]);
      if (!is_new && known->second != shape[i])
        throw UserError(what + ": another shape of " + flag + " has " + axis.name + " " +
                        std::to_string(known->second) + "; it must be one size in all of them");
    }
  }
  return sizes;
}

std::optional<int64_t> find(const Sizes& sizes, const std::string& axis) {
  const auto found = sizes.find(axis);
  return found == sizes.end() ? std::nullopt : std::optional(found->second);
}

struct GivenSizes {
  Sizes min, opt, max;

  GivenSizes(const std::vector<Input>& inputs, const GivenShapes& given)
      : min(axis_sizes(inputs, given.min, "--minShapes")),
        opt(axis_sizes(inputs, given.opt, "--optShapes")),
        max(axis_sizes(inputs, given.max, "--maxShapes")) {}
};

// What was given, and what was not from `usual`, kept in order.
Range overridden(const Range& usual, const GivenSizes& given, const std::string& axis) {
  const auto low = find(given.min, axis), best = find(given.opt, axis), high = find(given.max, axis);
  Range range{low.value_or(usual.min), best.value_or(usual.opt), high.value_or(usual.max)};
  if (!high) range.max = std::max({range.max, low.value_or(1), best.value_or(1)});
  if (!low) range.min = std::min({range.min, best.value_or(range.min), range.max});
  if (!best) range.opt = std::clamp(range.opt, std::min(range.min, range.max), range.max);
  if (range.min > range.opt || range.opt > range.max)
    throw UserError("axis " + axis + ": min " + std::to_string(range.min) + ", opt " + std::to_string(range.opt) +
                    ", max " + std::to_string(range.max) +
                    " of --minShapes, --optShapes, --maxShapes; expected min <= "
                    "opt <= max");
  return range;
}

void check_capacity(const Ranges& ranges, int64_t capacity) {
  for (const char* axis : {"seq", "max_len"}) {
    const auto range = ranges.find(axis);
    if (range != ranges.end() && range->second.max > capacity)
      throw UserError("axis " + std::string(axis) + ": --maxShapes has " + std::to_string(range->second.max) +
                      ", the bundle's capacity is " + std::to_string(capacity) +
                      "; give less");
  }
}

Profile profile_of(std::string name, const std::vector<Input>& inputs, const Ranges& ranges) {
  Profile profile{std::move(name), {}};
  for (const Input& input : inputs) {
    ShapeRange& shapes = profile.inputs[input.name];
    for (const Axis& axis : input.shape) {
      const Range range = axis.fixed() ? Range{axis.size, axis.size, axis.size} : ranges.at(axis.name);
      shapes.min.push_back(range.min), shapes.opt.push_back(range.opt), shapes.max.push_back(range.max);
    }
  }
  return profile;
}

}  // namespace

std::vector<Profile> bundle_profiles(const Bundle& bundle, const GivenShapes& given) {
  const int64_t capacity = bundle.capacity.value_or(kMaxPrompt), prompt = std::min(capacity, kMaxPrompt);
  Ranges ranges = {{"batch", {1, 1, kMaxBatch}},
                   {"seq", {1, std::min(prompt, kOptPrompt), prompt}},
                   {"max_len", {1, capacity, capacity}}};
  const GivenSizes sizes(bundle.inputs, given);
  for (const Input& input : bundle.inputs)
    for (const Axis& axis : input.shape)
      if (!axis.fixed() && ranges.count(axis.name) == 0)
        throw UserError("input " + input.name + " has an axis " + axis.name +
                        ": engines of bundles are built for batch, seq and max_len; give model.onnx itself, with "
                        "--minShapes, --optShapes and --maxShapes");
  for (auto& [axis, range] : ranges) range = overridden(range, sizes, axis);
  if (bundle.capacity) check_capacity(ranges, *bundle.capacity);

  std::vector<Profile> profiles = {profile_of("prefill", bundle.inputs, ranges)};
  ranges["seq"] = {1, 1, 1};
  profiles.push_back(profile_of("decode", bundle.inputs, ranges));
  return profiles;
}

std::vector<Profile> plain_profiles(const std::vector<Input>& inputs, const GivenShapes& given) {
  const GivenSizes sizes(inputs, given);
  Ranges ranges;
  for (const Input& input : inputs)
    for (const Axis& axis : input.shape) {
      if (axis.fixed()) continue;
      const auto low = find(sizes.min, axis.name), best = find(sizes.opt, axis.name), high = find(sizes.max, axis.name);
      const auto any = best ? best : high ? high : low;
      if (!any)
        throw UserError("input " + input.name + " has the shape " + text_of(input.shape) +
                        ", and nothing says how large "
                        "its axes may be; give --minShapes, --optShapes and --maxShapes, as in --optShapes=" +
                        input.name + ":" + text_of(Shape(input.shape.size(), 1)));
      ranges[axis.name] = overridden({*any, *any, *any}, sizes, axis.name);
    }
  if (ranges.empty()) return {};
  return {profile_of("default", inputs, ranges)};
}

}  // namespace seqexport
