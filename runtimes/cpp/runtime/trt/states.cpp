#include "states.h"

#include <algorithm>

#include "error.h"

namespace seqexport::trt {

TrtStates::TrtStates(const TrtEngine& engine, size_t batch, size_t capacity)
    : engine_(engine), executor_(engine.executor()), batch_(batch),
      room_(engine.rooms().high ? std::max(capacity, engine.rooms().low) : 0),
      vocab_(size_t(engine.model().vocab_size)) {
  check_limits(capacity);
  for (const State& state : engine.bundle().states) layouts_.emplace_back(state, batch);
  Executor::Turn turn(executor_);
  place_states();
}

TrtStates::~TrtStates() {
  try {
    Executor::Turn turn(executor_);
    graphs_ = {};
    memory_ = nullptr;
    host_ = nullptr;
  } catch (const std::exception&) {  // the driver is gone, and all memory with it
  }
}

void TrtStates::check_limits(size_t capacity) const {
  const Range batches = engine_.batches(), rooms = engine_.rooms(), widths = engine_.widths();
  const bool few = batch_ < batches.low;
  const std::string again = build_again(engine_.bundle());
  if (few || batch_ > batches.high)
    throw BadArgument("batch of " + std::to_string(batch_) + ": the engine takes " + std::to_string(batches.low) + " to " +
                      std::to_string(batches.high) + " sequences; " + again + ", with " +
                      (few ? "--minShapes" : "--maxShapes") + "=input_ids:" + std::to_string(batch_) + "x" +
                      std::to_string(few ? widths.low : widths.high));
  if (rooms.high && capacity > rooms.high)
    throw BadArgument("capacity of " + std::to_string(capacity) + " tokens: the engine's caches hold " +
                      std::to_string(rooms.high) + "; give less, or " + again + ", with --maxShapes and a cache's shape");
}

// Device memory: fixed states of place 0, then of place 1, caches, logits, feeds.
void TrtStates::place_states() {
  std::vector<std::array<size_t, 2>> offsets(layouts_.size());
  size_t end = 0;
  const auto taken = [&](size_t bytes) {
    const size_t start = end;
    end += aligned(bytes);
    return start;
  };
  std::array<size_t, 2> fixed{};
  for (const size_t place : {0, 1}) {
    fixed[place] = end;
    for (size_t i = 0; i < layouts_.size(); ++i)
      if (!layouts_[i].grows) offsets[i][place] = taken(layouts_[i].bytes(room_));
    fixed_bytes_ = end - fixed[place];
  }
  one_place_ = fixed_bytes_ == 0;
  for (size_t i = 0; i < layouts_.size(); ++i) {
    if (!layouts_[i].grows) continue;
    offsets[i][0] = offsets[i][1] = taken(layouts_[i].bytes(room_));
    if (engine_.caches_in_place()) continue;
    offsets[i][1] = taken(layouts_[i].bytes(room_));
    one_place_ = false;
  }
  const size_t states_end = end, logits_bytes = batch_ * vocab_ * sizeof(float);
  const size_t logits = taken(logits_bytes), feeds_bytes = Feeds::bytes(engine_.feeds(), batch_, 1);
  const size_t feeds = taken(feeds_bytes);

  memory_ = allocate_device(end);
  host_ = allocate_pinned(aligned(logits_bytes) + feeds_bytes);
  char* const device = memory_.get();
  for (const auto& [first, second] : offsets) states_.push_back({device + first, device + second});
  fixed_ = {device + fixed[0], device + fixed[1]};
  logits_ = device + logits;
  logits_host_ = host_.get();
  feeds_ = std::make_unique<Feeds>(engine_.feeds(), batch_, 1, device + feeds, host_.get() + aligned(logits_bytes));
  zero(device, states_end, executor_.stream());
}

Logits TrtStates::run(const Call& call) {
  Executor::Turn turn(executor_);
  if (call.columns == 1)
    step(call);
  else
    prompt(call);
  synchronize(executor_.stream());
  if (!one_place_) place_ = 1 - place_;
  return {reinterpret_cast<const float*>(logits_host_), 1};
}

void TrtStates::step(const Call& call) {
  GraphExec& graph = graphs_[size_t(place_)];
  feeds_->fill(call, 1);
  if (!graph) {
    Context& context = executor_.decoder(batch_, room_);
    bind(context, *feeds_, logits_);
    if (context.warm && executor_.captures()) capture(context);
    if (!graph) {
      enqueue_step(context);
      context.warm = true;
      return;
    }
  }
  check(cudaGraphLaunch(graph.get(), executor_.stream()), "cudaGraphLaunch");
}

// What cannot be captured is run without; nothing of it has run yet.
void TrtStates::capture(Context& context) {
  cudaGraph_t captured = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(executor_.stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  std::string why;
  try {
    enqueue_step(context);
  } catch (const UserError& error) {
    why = error.what();
  }
  const cudaError_t ended = cudaStreamEndCapture(executor_.stream(), &captured);
  const Graph graph(captured);
  try {
    if (!why.empty()) throw UserError(why);
    check(ended, "cudaStreamEndCapture");
    check(cudaGraphInstantiateWithFlags(&executable, graph.get(), 0), "cudaGraphInstantiate");
    graphs_[size_t(place_)] = GraphExec(executable);
  } catch (const NoMemory&) {
    throw;
  } catch (const UserError& error) {
    cudaGetLastError();
    executor_.refuse_graphs(error.what());
  }
}

void TrtStates::enqueue_step(Context& context) const {
  feeds_->upload(executor_.stream());
  executor_.enqueue(context);
  copy_out(logits_host_, logits_, batch_ * vocab_ * sizeof(float), executor_.stream());
}

void TrtStates::prompt(const Call& call) {
  const size_t width = std::max(call.columns, engine_.widths().low), row = vocab_ * sizeof(float);
  const bool whole = engine_.model().all_logits;
  char* const logits = whole ? executor_.prompt_logits(batch_ * width * row) : logits_;
  Feeds& feeds = executor_.prompt_feeds(engine_.feeds(), batch_, width);
  Context& context = executor_.prefiller({batch_, width, room_});
  feeds.fill(call, width);
  bind(context, feeds, logits);
  feeds.upload(executor_.stream());
  executor_.enqueue(context);
  for (size_t b = 0; b < batch_; ++b) {
    const size_t last = whole ? b * width + size_t(std::max(call.seq_lens[b], 1)) - 1 : b;
    copy_out(logits_host_ + b * row, logits + last * row, row, executor_.stream());
  }
}

void TrtStates::bind(Context& context, const Feeds& feeds, char* logits) const {
  const std::vector<State>& specs = engine_.bundle().states;
  for (size_t i = 0; i < specs.size(); ++i) {
    executor_.bind(context, specs[i].past, states_[i][size_t(place_)]);
    executor_.bind(context, specs[i].present, states_[i][size_t(1 - place_)]);
  }
  feeds.bind([&](const std::string& name, char* address) { executor_.bind(context, name, address); });
  executor_.bind(context, "logits", logits);
}

template <class Part>
std::vector<Segment> TrtStates::segments(const std::vector<Part>& parts) const {
  std::vector<Segment> all;
  for (const auto& [state, rows, host] : parts) {
    const Layout& layout = layouts_[state];
    const size_t bytes = layout.block_bytes(rows), step = layout.block_bytes(room_);
    for (size_t block = 0; block < layout.outer; ++block)
      all.push_back({states_[state][size_t(place_)] + block * step, const_cast<char*>(host) + block * bytes, bytes});
  }
  return all;
}

void TrtStates::read(const std::vector<StateRead>& parts) const {
  Executor::Turn turn(executor_);
  executor_.transfer().to_host(segments(parts), executor_.stream());
}

void TrtStates::write(const std::vector<StateWrite>& parts) {
  Executor::Turn turn(executor_);
  executor_.transfer().to_device(segments(parts), executor_.stream());
}

void TrtStates::clear() {
  Executor::Turn turn(executor_);
  zero(fixed_[size_t(place_)], fixed_bytes_, executor_.stream());
}

void TrtStates::copy(const seqexport::States& other, size_t rows) {
  const auto& from = static_cast<const TrtStates&>(other);
  const auto place = size_t(place_), theirs = size_t(from.place_);
  Executor::Turn turn(executor_);
  if (fixed_bytes_) copy_within(fixed_[place], from.fixed_[theirs], fixed_bytes_, executor_.stream());
  for (size_t i = 0; i < layouts_.size(); ++i) {
    const Layout& layout = layouts_[i];
    if (!layout.grows || rows == 0) continue;
    const size_t step = layout.block_bytes(room_);
    check(cudaMemcpy2DAsync(states_[i][place], step, from.states_[i][theirs], step, layout.block_bytes(rows), layout.outer,
                            cudaMemcpyDeviceToDevice, executor_.stream()),
          "cudaMemcpy2DAsync");
  }
  synchronize(executor_.stream());
}

}  // namespace seqexport::trt
