#include "states.h"

#include <algorithm>
#include <cstring>

namespace seqexport::ort {
namespace {

constexpr char kFailed[] = "ONNX Runtime failed";

ONNXTensorElementDataType element(const std::string& dtype) {
  return dtype == "float32" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
}

Tensor new_tensor(const std::vector<int64_t>& shape, ONNXTensorElementDataType type) {
  OrtAllocator* allocator = nullptr;
  OrtValue* value = nullptr;
  void* data = nullptr;
  check(api().GetAllocatorWithDefaultOptions(&allocator), kFailed);
  check(api().CreateTensorAsOrtValue(allocator, shape.data(), shape.size(), type, &value), kFailed);
  Owned<OrtValue> owned(value);
  check(api().GetTensorMutableData(value, &data), kFailed);
  return {std::move(owned), static_cast<char*>(data)};
}

// The first `rows` of each block, of which one begins every `to_step` and `from_step` bytes.
void copy_blocks(char* to, size_t to_step, const char* from, size_t from_step, const Layout& layout, size_t rows) {
  for (size_t block = 0; block < layout.outer; ++block)
    std::memcpy(to + block * to_step, from + block * from_step, layout.block_bytes(rows));
}

}  // namespace

OrtStates::OrtStates(const OrtEngine& engine, size_t batch, size_t capacity)
    : engine_(engine), batch_(batch), room_(capacity) {
  const auto rows = int64_t(batch);
  seq_lens_ = new_tensor({rows}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
  past_lens_ = new_tensor({rows}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
  step_tokens_ = new_tensor({rows, 1}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
  for (const State& state : engine.bundle().states) layouts_.emplace_back(state, batch);
  for (size_t i = 0; i < layouts_.size(); ++i) {
    const auto first = std::make_shared<Tensor>(new_state(i, room_));
    const bool in_place = layouts_[i].grows && engine.caches_in_place();
    states_.push_back({first, in_place ? first : std::make_shared<Tensor>(new_state(i, room_))});
  }
}

Tensor OrtStates::new_state(size_t state, size_t room) const {
  const State& spec = engine_.bundle().states[state];
  std::vector<int64_t> shape;
  for (const Axis& axis : spec.shape)
    shape.push_back(axis.fixed() ? axis.size : int64_t(axis.name == "batch" ? batch_ : room));
  Tensor tensor = new_tensor(shape, element(spec.dtype));
  std::memset(tensor.data, 0, layouts_[state].bytes(room));
  return tensor;
}

// GroupQueryAttention wants a sequence's tokens and the whole padded call to fit into its cache.
void OrtStates::make_room(const Call& call) {
  const size_t needed = size_t(*std::max_element(call.past_lens, call.past_lens + batch_)) + call.columns;
  if (!engine_.bundle().caches_in_place || needed <= room_) return;
  for (size_t i = 0; i < layouts_.size(); ++i) {
    if (!layouts_[i].grows) continue;
    Tensor larger = new_state(i, needed);
    copy_blocks(larger.data, layouts_[i].block_bytes(needed), states_[i][0]->data, layouts_[i].block_bytes(room_),
                layouts_[i], room_);
    states_[i][0] = states_[i][1] = std::make_shared<Tensor>(std::move(larger));
  }
  room_ = needed;
  steps_ = {};
}

OrtStates::Bound OrtStates::bind(size_t columns, Tensor& tokens) {
  const LanguageModel& model = engine_.model();
  OrtIoBinding* made = nullptr;
  check(api().CreateIoBinding(&engine_.session(), &made), kFailed);
  Bound bound{Owned<OrtIoBinding>(made), new_tensor({int64_t(batch_), model.all_logits ? int64_t(columns) : 1,
                                                     model.vocab_size}, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)};
  const auto input = [&](const std::string& name, const Tensor& tensor) {
    if (engine_.reads(name)) check(api().BindInput(made, name.c_str(), tensor.value.get()), kFailed);
  };
  input("input_ids", tokens);
  input("seq_lens", seq_lens_);
  input("past_lens", past_lens_);
  check(api().BindOutput(made, "logits", bound.logits.value.get()), kFailed);
  for (size_t i = 0; i < states_.size(); ++i) {
    const State& spec = engine_.bundle().states[i];
    input(spec.past, *states_[i][place_]);
    check(api().BindOutput(made, spec.present.c_str(), states_[i][1 - place_]->value.get()), kFailed);
  }
  return bound;
}

void OrtStates::copy_in(const Call& call, Tensor& tokens) {
  std::memcpy(tokens.data, call.tokens, batch_ * call.columns * sizeof *call.tokens);
  std::memcpy(seq_lens_.data, call.seq_lens, batch_ * sizeof *call.seq_lens);
  std::memcpy(past_lens_.data, call.past_lens, batch_ * sizeof *call.past_lens);
}

Logits OrtStates::run(const Call& call) {
  make_room(call);
  const bool step = call.columns == 1;
  Tensor prompt_tokens;
  if (!step)
    prompt_tokens = new_tensor({int64_t(batch_), int64_t(call.columns)}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
  Tensor& tokens = step ? step_tokens_ : prompt_tokens;
  Bound& bound = step ? steps_[place_] : prompt_;
  copy_in(call, tokens);
  if (!step || !bound.binding) bound = bind(call.columns, tokens);
  check(api().RunWithBinding(&engine_.session(), nullptr, bound.binding.get()), kFailed);
  if (!step) bound.binding.reset();
  place_ = 1 - place_;
  return {reinterpret_cast<const float*>(bound.logits.data), engine_.model().all_logits ? call.columns : 1};
}

void OrtStates::read(const std::vector<StateRead>& parts) const {
  for (const auto& [state, rows, host] : parts)
    copy_blocks(host, layouts_[state].block_bytes(rows), states_[state][place_]->data, layouts_[state].block_bytes(room_),
                layouts_[state], rows);
}

void OrtStates::write(const std::vector<StateWrite>& parts) {
  for (const auto& [state, rows, host] : parts)
    copy_blocks(states_[state][place_]->data, layouts_[state].block_bytes(room_), host, layouts_[state].block_bytes(rows),
                layouts_[state], rows);
}

void OrtStates::clear() {
  for (size_t i = 0; i < layouts_.size(); ++i)
    if (!layouts_[i].grows) std::memset(states_[i][place_]->data, 0, layouts_[i].bytes(0));
}

void OrtStates::copy(const seqexport::States& other, size_t rows) {
  const auto& from = static_cast<const OrtStates&>(other);
  for (size_t i = 0; i < layouts_.size(); ++i)
    copy_blocks(states_[i][place_]->data, layouts_[i].block_bytes(room_), from.states_[i][from.place_]->data,
                layouts_[i].block_bytes(from.room_), layouts_[i], rows);
}

}  // namespace seqexport::ort
