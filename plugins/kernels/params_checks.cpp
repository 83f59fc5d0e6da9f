#include "params_checks.h"

#include <cmath>
#include <cstdio>

namespace seqexport {
namespace {

template <typename... Parts>
void require(bool holds, const char* format, Parts... parts) {
  if (holds) return;
  char text[256];
  std::snprintf(text, sizeof text, format, parts...);
  throw Refusal(text);
}

void in_range(const std::string& name, int64_t value, int64_t low, int64_t high) {
  require(low <= value && value <= high, "%s must be in %lld to %lld, got %lld", name.c_str(), (long long)low,
          (long long)high, (long long)value);
}

bool has_axis(const Tensor& tensor, int size) {
  for (const Axis& axis : tensor.axes) {
    if (axis.size == size) return true;
  }
  return false;
}

// The first input with an axis of this size: where it may be absent, 0 says that it is.
const Tensor& bringer(const Op& op, int size) {
  size_t i = 0;
  while (!has_axis(op.inputs[i], size)) ++i;
  return op.inputs[i];
}

Sizes checked_sizes(const Op& op, const void* params) {
  Sizes sizes;
  for (size_t i = 0; i < op.sizes.size(); ++i) {
    const Size& size = op.sizes[i];
    if (!size.field) continue;
    const int64_t value = size.field.of<int32_t>(params);
    const bool may_be_absent = bringer(op, int(i)).is_optional;
    in_range(std::string(size.field.name) + " (" + size.name + ")", value, may_be_absent ? 0 : size.cuda.low,
             size.cuda.high);
    if (value > 0 || !may_be_absent) sizes[int(i)] = value;
  }
  if (op.rows) in_range(std::string(op.rows.name) + " (B * L)", op.rows.of<int32_t>(params), 1, kMaxSize);
  check_sizes(op, sizes);
  return sizes;
}

void check_float(const Attribute& attribute, const void* params) {
  const double value = attribute.field.of<float>(params);
  const bool may_be_0 = attribute.root_of < 0;
  require(std::isfinite(value) && (may_be_0 ? value >= 0 : value > 0), "%s must be finite and %s, got %g",
          attribute.name, may_be_0 ? "0 or more" : "above 0", value);
}

// "0 (none) or 1 (silu)"
std::string numbered(const std::vector<const char*>& choices) {
  std::string text;
  for (size_t i = 0; i < choices.size(); ++i) {
    const char* separator = i == 0 ? "" : i + 1 == choices.size() ? " or " : ", ";
    text += separator + std::to_string(i) + " (" + choices[i] + ")";
  }
  return text;
}

void check_whole(const Attribute& attribute, const void* params) {
  const auto low = int64_t(attribute.low), high = int64_t(attribute.high);
  const int64_t value = attribute.field.of<int32_t>(params);
  if (attribute.kind == Attribute::kInt) return in_range(attribute.name, value, low, high);
  require(low <= value && value <= high, "%s must be %s, got %d", attribute.name, numbered(attribute.choices).c_str(),
          int(value));
}

void check_stride(const Tensor& input, const Sizes& sizes, const void* params) {
  const int64_t stride = input.stride.of<int64_t>(params), token = token_elements(input, sizes);
  require(stride >= token, "%s must be at least a token's %lld elements, got %lld", input.stride.name,
          (long long)token, (long long)stride);
}

bool is_wide(const Op& op, const void* params) {
  for (const Attribute& attribute : op.attributes) {
    if (attribute.name == std::string(kWideAttribute)) return attribute.field.of<int32_t>(params) == 1;
  }
  return false;
}

unsigned element_bytes(const Op& op, const Tensor& tensor, const void* params) {
  const bool is_t = tensor.type == 'T' || (tensor.type == 'S' && !is_wide(op, params));
  return is_t ? seqexport_element_bytes(*static_cast<const int32_t*>(params)) : 4;
}

void check_aligned(const Field& field, const void* params, unsigned bytes) {
  const void* p = field.of<const void*>(params);
  require(reinterpret_cast<uintptr_t>(p) % bytes == 0, "%s must be aligned to %u bytes, got %p", field.name, bytes, p);
}

// Whether an input must be there: one that is not optional, or brings a size that is above 0.
bool is_needed(const Op& op, const Tensor& input, const Sizes& sizes) {
  for (size_t i = 0; i < op.sizes.size(); ++i) {
    if (op.sizes[i].field && sizes.values[i] > 0 && &bringer(op, int(i)) == &input) return true;
  }
  return !input.is_optional;
}

// The same of the input that a tensor needs; true where it needs none.
bool has_what_it_needs(const Op& op, const Tensor& tensor, const Sizes& sizes) {
  for (const Tensor& input : op.inputs) {
    if (tensor.needs && tensor.needs == std::string(input.name)) return is_needed(op, input, sizes);
  }
  return true;
}

void check_tensor(const Op& op, const Tensor& tensor, bool needed, const void* params) {
  const void* p = tensor.field.of<const void*>(params);
  require(p || !needed, "%s is null; pass the device pointer of a tensor", tensor.name);
  check_aligned(tensor.field, params, element_bytes(op, tensor, params));
}

void check_tensors(const Op& op, const Sizes& sizes, const void* params) {
  for (const Tensor& input : op.inputs) {
    const bool needed = is_needed(op, input, sizes);
    require(!needed || has_what_it_needs(op, input, sizes), "%s must come with %s, got it without", input.name,
            input.needs);
    check_tensor(op, input, needed, params);
  }
  for (const Tensor& output : op.outputs) {
    const bool is_brought = output.needs && has_what_it_needs(op, output, sizes);
    check_tensor(op, output, is_brought || !output.is_optional, params);
  }
}

void check_workspace(const Workspace& workspace, const void* params) {
  check_aligned(workspace.data, params, 16);
  if (!workspace.least) return;
  const size_t least = workspace.least(params), bytes = workspace.bytes.of<size_t>(params);
  require(bytes >= least, "%s must be at least %zu, got %zu", workspace.bytes.name, least, bytes);
  require(workspace.data.of<void*>(params), "%s is null; pass the device pointer of %zu bytes or more",
          workspace.data.name, least);
}

}  // namespace

Sizes check_numbers(const Op& op, const void* params) {
  const int dtype = *static_cast<const int32_t*>(params);
  require(dtype >= SEQEXPORT_FLOAT32 && dtype <= SEQEXPORT_BFLOAT16,
          "dtype must be 0 (float32), 1 (float16) or 2 (bfloat16), got %d", dtype);
  const Sizes sizes = checked_sizes(op, params);
  for (const Tuning& each : op.tuning) in_range(each.field.name, each.field.of<int32_t>(params), 0, each.high);
  for (const Attribute& attribute : op.attributes) {
    if (attribute.kind != Attribute::kFloat) check_whole(attribute, params);
  }
  return sizes;
}

void check_params(const Op& op, const void* params) {
  const Sizes sizes = check_numbers(op, params);
  for (const Attribute& attribute : op.attributes) {
    if (attribute.kind == Attribute::kFloat) check_float(attribute, params);
  }
  for (const Tensor& input : op.inputs) {
    if (input.stride && input.field.of<const void*>(params)) check_stride(input, sizes, params);
  }
  check_tensors(op, sizes, params);
  if (op.workspace.data) check_workspace(op.workspace, params);
  if (op.check_params) op.check_params(params, Device::kCuda);
}

}  // namespace seqexport
