// What the sessions of an engine take turns with: the stream, the execution contexts, and the memory that they work in.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda.h"
#include "feeds.h"
#include "logger.h"
#include "manifest.h"
#include "tensorrt.h"
#include "transfer.h"

namespace seqexport::trt {

// Sizes of the axes that a call chooses.
struct Sizes {
  size_t batch, columns, room;  // room: rows of a cache

  bool operator<(const Sizes& other) const;
  bool operator==(const Sizes& other) const;
};

struct Context {
  std::unique_ptr<nvinfer1::IExecutionContext> context;
  Sizes sizes{};
  bool warm = false;  // has run with its sizes, so that it may be captured
};

// One memory for activations serves every context, and one context the steps of every session of the same sizes: a session
// is its states and two CUDA graphs, however many there are.
class Executor {
 public:
  // `engine` and `bundle` must live longer. `profiles`: the places of prefill and decode in the engine.
  Executor(nvinfer1::ICudaEngine& engine, const Bundle& bundle, Logger& logger, int device, size_t prefill,
           size_t decode);

  // The GPU and everything here, for this thread, while it lives.
  class Turn {
   public:
    explicit Turn(Executor& executor) : lock_(executor.mutex_), on_device_(executor.device_) {}

   private:
    std::lock_guard<std::mutex> lock_;
    OnDevice on_device_;
  };

  // All below are called within a turn. Throw UserError with what TensorRT said.
  cudaStream_t stream() const { return stream_.get(); }
  Transfer& transfer() { return transfer_; }
  Context& decoder(size_t batch, size_t room);
  Context& prefiller(const Sizes& sizes);
  Feeds& prompt_feeds(const std::vector<Feed>& feeds, size_t batch, size_t width);
  // Device memory of at least so many bytes, the same for all.
  char* prompt_logits(size_t bytes);
  void bind(Context& context, const std::string& name, char* address);
  void enqueue(Context& context);

  bool captures() const { return no_graph_.empty(); }
  const std::string& no_graph() const { return no_graph_; }
  // From now on steps run without: the engine does what no graph can hold.
  void refuse_graphs(const std::string& why) { no_graph_ = why; }

 private:
  Context new_context(size_t profile);
  void set_sizes(Context& context, const Sizes& sizes);
  [[noreturn]] void fail(const std::string& what);

  nvinfer1::ICudaEngine& engine_;
  const Bundle& bundle_;
  Logger& logger_;
  const int device_;
  const size_t prefill_, decode_;
  std::mutex mutex_;
  std::string no_graph_;
  Stream stream_;
  size_t scratch_bytes_ = 0, prompt_feeds_bytes_ = 0, prompt_logits_bytes_ = 0;
  DeviceMemory scratch_, prompt_feeds_memory_, prompt_logits_;
  PinnedMemory prompt_feeds_host_;
  std::unique_ptr<Feeds> prompt_feeds_;
  Transfer transfer_;
  std::map<Sizes, Context> decoders_;
  Context prefiller_;
};

}  // namespace seqexport::trt
