// The states of a session on the device, and its steps as CUDA graphs.
#pragma once

#include <array>
#include <vector>

#include "engine.h"

namespace seqexport::trt {

// A state of fixed size has two places and swaps them at each call; a cache has one, which the plugins read and write, or
// two where function bodies were built. All lie in one memory, those of fixed size of one place side by side. One token a
// sequence runs as a CUDA graph, of which there is one for each place.
class TrtStates final : public seqexport::States {
 public:
  // Throws UserError for what the engine does not take, NoMemory where there is no room.
  TrtStates(const TrtEngine& engine, size_t batch, size_t capacity);
  ~TrtStates() override;

  Logits run(const Call& call) override;
  void read(const std::vector<StateRead>& parts) const override;
  void write(const std::vector<StateWrite>& parts) override;
  void clear() override;
  void copy(const seqexport::States& other, size_t rows) override;

  bool captured() const { return graphs_[0] || graphs_[1]; }

 private:
  using Places = std::array<char*, 2>;

  void check_limits(size_t capacity) const;
  void place_states();
  void step(const Call& call);
  void prompt(const Call& call);
  void capture(Context& context);
  void bind(Context& context, const Feeds& feeds, char* logits) const;
  void enqueue_step(Context& context) const;
  template <class Part>
  std::vector<Segment> segments(const std::vector<Part>& parts) const;

  const TrtEngine& engine_;
  Executor& executor_;
  const size_t batch_, room_, vocab_;
  size_t fixed_bytes_ = 0;  // of the states of fixed size in one place
  int place_ = 0;
  bool one_place_ = false;  // every state is updated where it lies
  std::vector<Layout> layouts_;
  std::vector<Places> states_;
  DeviceMemory memory_;
  PinnedMemory host_;
  std::array<char*, 2> fixed_{};
  char* logits_ = nullptr;
  char* logits_host_ = nullptr;
  std::unique_ptr<Feeds> feeds_;
  std::array<GraphExec, 2> graphs_;
};

}  // namespace seqexport::trt
