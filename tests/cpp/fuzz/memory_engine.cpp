// A backend without a model: its states and logits follow from the tokens that were read, and from nothing else.
#include <algorithm>
#include <new>
#include <vector>

#include "backend.h"
#include "error.h"

namespace seqexport {
namespace {

constexpr size_t kMostBytes = size_t(1) << 20;  // of a state: what is larger is no memory

class MemoryStates final : public States {
 public:
  MemoryStates(const Engine& engine, size_t batch, size_t capacity) : engine_(engine), batch_(batch), room_(capacity) {
    for (const State& state : engine.bundle().states) {
      layouts_.emplace_back(state, batch);
      if (layouts_.back().bytes(room_) > kMostBytes) throw std::bad_alloc();
      states_.emplace_back(layouts_.back().bytes(room_), '\0');
    }
  }

  Logits run(const Call& call) override {
    uint8_t sum = 0;
    for (size_t i = 0; i < batch_ * call.columns; ++i) sum = uint8_t(sum * 3 + call.tokens[i]);
    const auto rows = size_t(*std::max_element(call.past_lens, call.past_lens + batch_));
    for (size_t i = 0; i < states_.size(); ++i) move_on(i, rows, call.columns, sum);
    return logits(call.columns);
  }

  void read(const std::vector<StateRead>& parts) const override {
    for (const StateRead& part : parts)
      for_rows(part.state, part.rows, [&](size_t here, size_t there, size_t bytes) {
        std::copy_n(states_[part.state].data() + here, bytes, part.host + there);
      });
  }

  void write(const std::vector<StateWrite>& parts) override {
    for (const StateWrite& part : parts)
      for_rows(part.state, part.rows, [&](size_t here, size_t there, size_t bytes) {
        std::copy_n(part.host + there, bytes, states_[part.state].data() + here);
      });
  }

  void clear() override {
    for (size_t i = 0; i < states_.size(); ++i)
      if (!layouts_[i].grows) std::fill(states_[i].begin(), states_[i].end(), '\0');
  }

  void copy(const States& other, size_t) override { states_ = static_cast<const MemoryStates&>(other).states_; }

 private:
  template <class Copy>
  void for_rows(size_t state, size_t rows, const Copy& copy) const {
    const size_t wide = layouts_[state].block_bytes(room_), packed = layouts_[state].block_bytes(rows);
    for (size_t block = 0; block < layouts_[state].outer; ++block) copy(block * wide, block * packed, packed);
  }

  void move_on(size_t state, size_t past, size_t columns, uint8_t sum) {
    if (!layouts_[state].grows) {
      for (char& byte : states_[state]) byte = char(byte * 5 + sum);
      return;
    }
    const size_t row = layouts_[state].row_bytes, wide = layouts_[state].block_bytes(room_);
    for (size_t block = 0; block < layouts_[state].outer; ++block)
      for (size_t at = past; at < std::min(past + columns, room_); ++at)
        std::fill_n(states_[state].data() + block * wide + at * row, row, char(sum));
  }

  Logits logits(size_t columns) {
    const auto vocab = size_t(engine_.model().vocab_size);
    const size_t width = engine_.model().all_logits ? columns : 1;
    logits_.resize(batch_ * width * vocab);
    uint32_t all = 0;
    for (const std::string& state : states_)
      for (const char byte : state) all = all * 31 + uint8_t(byte);
    for (size_t i = 0; i < logits_.size(); ++i) logits_[i] = float((all >> i % 24 ^ i) & 63);
    return {logits_.data(), width};
  }

  const Engine& engine_;
  const size_t batch_, room_;
  std::vector<Layout> layouts_;
  std::vector<std::string> states_;
  std::vector<float> logits_;
};

class MemoryEngine final : public Engine {
 public:
  explicit MemoryEngine(const Bundle& bundle) : Engine(bundle) {}
  std::unique_ptr<States> states(size_t batch, size_t capacity) const override {
    return std::make_unique<MemoryStates>(*this, batch, capacity);
  }
  std::string name() const override { return "memory"; }
  std::string description() const override { return "memory"; }
};

}  // namespace

std::shared_ptr<const Engine> open_engine(const Bundle& bundle, const EngineOptions&) {
  return std::make_shared<const MemoryEngine>(bundle);
}

}  // namespace seqexport
