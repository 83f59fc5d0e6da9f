#include "bare.h"

#include <algorithm>
#include <utility>

namespace seqexport::trt {

Bare::Bare(const TrtEngine& engine, size_t capacity) : executor_(engine.executor()) {
  Executor::Turn turn(executor_);
  const size_t room = engine.rooms().high ? std::max(capacity, engine.rooms().low) : 0;
  const size_t logits_bytes = aligned(size_t(engine.model().vocab_size) * sizeof(float));
  const size_t feeds_bytes = Feeds::bytes(engine.feeds(), 1, 1);
  size_t bytes = logits_bytes + feeds_bytes;
  for (const State& state : engine.bundle().states) bytes += 2 * aligned(Layout(state, 1).bytes(room));
  memory_ = allocate_device(bytes);
  host_ = allocate_pinned(feeds_bytes);
  zero(memory_.get(), bytes, executor_.stream());

  Context& context = executor_.decoder(1, room);
  char* next = memory_.get();
  const auto taken = [&next](size_t size) { return std::exchange(next, next + aligned(size)); };
  executor_.bind(context, "logits", taken(logits_bytes));
  Feeds feeds(engine.feeds(), 1, 1, taken(feeds_bytes), host_.get());
  const int64_t token = 1;
  const int32_t one = 1;
  feeds.fill({&token, 1, &one, &one}, 1);
  feeds.upload(executor_.stream());
  feeds.bind([&](const std::string& name, char* address) { executor_.bind(context, name, address); });
  for (const State& state : engine.bundle().states) {
    char* const past = taken(Layout(state, 1).bytes(room));
    executor_.bind(context, state.past, past);
    executor_.bind(context, state.present,
                   state.grows() && engine.caches_in_place() ? past : taken(Layout(state, 1).bytes(room)));
  }
  executor_.enqueue(context);
  synchronize(executor_.stream());
  context.warm = true;

  cudaGraph_t captured = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(executor_.stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  executor_.enqueue(context);
  check(cudaStreamEndCapture(executor_.stream(), &captured), "cudaStreamEndCapture");
  const Graph graph(captured);
  check(cudaGraphInstantiateWithFlags(&executable, captured, 0), "cudaGraphInstantiate");
  graph_ = GraphExec(executable);
}

void Bare::launch() const { check(cudaGraphLaunch(graph_.get(), executor_.stream()), "cudaGraphLaunch"); }

void Bare::wait() const { synchronize(executor_.stream()); }

}  // namespace seqexport::trt
