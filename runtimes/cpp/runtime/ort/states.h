// The states of a session in ONNX Runtime's memory.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "api.h"
#include "engine.h"

namespace seqexport::ort {

struct Tensor {
  Owned<OrtValue> value;
  char* data = nullptr;
};

// A state of fixed size has two places and swaps them at each call; so has a cache, but for one that the graph updates in
// place. Such a cache may have to hold padded tokens beyond the capacity. A call of one token a sequence is bound once for
// each of the two places and allocates nothing after that.
class OrtStates final : public seqexport::States {
 public:
  OrtStates(const OrtEngine& engine, size_t batch, size_t capacity);

  Logits run(const Call& call) override;
  void read(const std::vector<StateRead>& parts) const override;
  void write(const std::vector<StateWrite>& parts) override;
  void clear() override;
  void copy(const seqexport::States& other, size_t rows) override;

 private:
  struct Bound {  // one call's memory and what is bound to it
    Owned<OrtIoBinding> binding;
    Tensor logits;
  };

  Tensor new_state(size_t state, size_t room) const;
  void make_room(const Call& call);
  Bound bind(size_t columns, Tensor& tokens);
  void copy_in(const Call& call, Tensor& tokens);

  const OrtEngine& engine_;
  const size_t batch_;
  size_t room_;
  int place_ = 0;
  std::vector<Layout> layouts_;
  std::vector<std::array<std::shared_ptr<Tensor>, 2>> states_;  // by place: past is states_[i][place_]
  Tensor seq_lens_, past_lens_, step_tokens_;
  std::array<Bound, 2> steps_;
  Bound prompt_;
};

}  // namespace seqexport::ort
