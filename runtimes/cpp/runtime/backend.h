// What a backend offers: an engine, the weights that sessions share, and the states of one session on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "manifest.h"

namespace seqexport {

struct EngineOptions {
  int threads = 0;                // of the CPU; 0: every core that this process may use
  std::filesystem::path plugins;  // the library of our ops; empty: the ops' function bodies
};

// One call's inputs; row b has seq_lens[b] valid tokens of `columns`, after past_lens[b] that it has already.
struct Call {
  const int64_t* tokens;  // [batch, columns], right-padded
  size_t columns;
  const int32_t* seq_lens;   // [batch]
  const int32_t* past_lens;  // [batch]
};

// Used by one thread at a time. A state is named by its place in the manifest.
class States {
 public:
  virtual ~States() = default;

  // Runs a call and takes over the new states. Gives logits [batch, 1 or columns, vocab], which hold until the next call.
  // Throws UserError, with all states as they were.
  virtual const float* run(const Call& call) = 0;

  // A whole state, or the first `rows` of a cache, packed: to the host, and from it. What is not written of a cache stays.
  virtual void read(size_t state, size_t rows, void* to) const = 0;
  virtual void write(size_t state, size_t rows, const void* from) = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;

  const Bundle& bundle() const { return bundle_; }
  const LanguageModel& model() const { return *bundle_.language_model; }

  // Empty states of `batch` sequences, with room for `capacity` tokens in a cache. May be called from any thread.
  virtual std::unique_ptr<States> states(size_t batch, size_t capacity) const = 0;

  virtual std::string name() const = 0;         // ort, trt
  virtual std::string description() const = 0;  // for people: the runtime, its version, what computes our ops

 protected:
  explicit Engine(Bundle bundle) : bundle_(std::move(bundle)) {}

 private:
  Bundle bundle_;
};

// The engine of the backend that this library was built with. Throws UserError.
std::shared_ptr<const Engine> open_engine(const Bundle& bundle, const EngineOptions& options);

// Bytes of one element.
size_t item_bytes(const std::string& dtype);

// How a state lies in memory: `outer` blocks of rows, each of `row_bytes`. A state of fixed size is one block of one row.
struct Layout {
  explicit Layout(const State& state, size_t batch);
  size_t outer = 1, row_bytes = 1;
  bool grows = false;

  size_t block_bytes(size_t rows) const { return (grows ? rows : 1) * row_bytes; }
  size_t bytes(size_t rows) const { return outer * block_bytes(rows); }
};

}  // namespace seqexport
