// What a backend offers: an engine, the weights that sessions share, and the states of one session on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "manifest.h"

namespace seqexport {

struct EngineOptions {
  int threads = 0;                // of the CPU; 0: every core that this process may use
  std::filesystem::path plugins;  // the library of our ops; empty: the one that `seqexport plugins build` made
  int device = 0;                 // the GPU, as CUDA counts them
  bool use_plugins = true;        // false: no library of our ops
};

// One call's inputs; row b has seq_lens[b] valid tokens of `columns`, after past_lens[b] that it has already.
struct Call {
  const int64_t* tokens;  // [batch, columns], right-padded
  size_t columns;
  const int32_t* seq_lens;   // [batch]
  const int32_t* past_lens;  // [batch]
};

// [batch, columns, vocab]; columns is 1 where they are those of each sequence's last valid token alone.
struct Logits {
  const float* values;
  size_t columns;
};

// A whole state, or the first `rows` of a cache, packed, in memory of the host. A state is named by its place in the
// manifest.
template <class Byte>
struct Part {
  size_t state, rows;
  Byte* host;
};
using StateRead = Part<char>;
using StateWrite = Part<const char>;

// Used by one thread at a time.
class States {
 public:
  virtual ~States() = default;

  // Runs a call and takes over the new states. Its logits hold until the next call; those of a sequence without a valid
  // token mean nothing. Throws UserError, with all states as they were.
  virtual Logits run(const Call& call) = 0;

  // States to the host, and from it. What is not written of a cache stays.
  virtual void read(const std::vector<StateRead>& parts) const = 0;
  virtual void write(const std::vector<StateWrite>& parts) = 0;

  // Zeros in every state of fixed size.
  virtual void clear() = 0;
  // Takes over the states of another session of the same engine, batch and capacity; of its caches the first `rows`.
  virtual void copy(const States& other, size_t rows) = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;

  const Bundle& bundle() const { return bundle_; }
  const LanguageModel& model() const { return *bundle_.language_model; }

  // Empty states of `batch` sequences, with room for `capacity` tokens in a cache. May be called from any thread.
  virtual std::unique_ptr<States> states(size_t batch, size_t capacity) const = 0;

  // The most tokens that a cache of a session may hold, where the bundle allows more.
  virtual size_t longest_cache() const { return std::numeric_limits<size_t>::max(); }
  // The most columns that a call may have.
  virtual size_t longest_call() const { return std::numeric_limits<size_t>::max(); }

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
