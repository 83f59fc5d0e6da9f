// Sequences and all that a model remembers of them, as runtimes/base.py has them in Python.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>

#include "backend.h"
#include "error.h"
#include "snapshot.h"

namespace seqexport {

// Called with the tokens [batch] of one step; -1 for a sequence that has ended. False ends the generation.
using OnTokens = std::function<bool(const int64_t*)>;

// One thread at a time, which SessionGuard makes sure of; cancel() from any.
class Session {
 public:
  // No capacity: all that the bundle allows.
  Session(std::shared_ptr<const Engine> engine, size_t batch, std::optional<size_t> capacity);

  static std::unique_ptr<Session> restore(std::shared_ptr<const Engine> engine, const std::filesystem::path& file,
                                          std::optional<size_t> capacity);
  std::unique_ptr<Session> fork() const;
  void save(const std::filesystem::path& file) const;

  // Reads tokens [batch, columns], of which the first seq_lens[b] of sequence b are valid; null: all. Throws BadArgument
  // for tokens that it cannot take, before any state has changed.
  void prefill(const int64_t* tokens, size_t columns, const int32_t* seq_lens);

  // Chooses a token for each sequence, tells it, and reads it, until all have ended, `max_new_tokens` came, it is told to
  // stop or cancelled. Every token that was told has then been read. No sampling: as before, with the random numbers
  // that would have come. Gives whether it was cancelled. Throws BadArgument for an empty sequence, and UserError for
  // logits that are not finite.
  bool generate(size_t max_new_tokens, const std::optional<Sampling>& sampling, const OnTokens& on_tokens);
  void cancel() noexcept { cancelled_ = true; }

  void keep(size_t every, size_t max_bytes);
  size_t rewind(size_t tokens);
  void reset();

  size_t batch() const { return now_.batch(); }
  const std::vector<int32_t>& lengths() const { return now_.lengths; }
  // [batch, vocab], after each sequence's last token; hold until the next call.
  const float* logits() const { return fresh_ ? fresh_ : now_.logits.data(); }
  const std::vector<int64_t>& recent() const { return now_.recent; }  // [batch, kRecent], as in Moment
  const Bundle& bundle() const { return engine_->bundle(); }

 private:
  friend class SessionGuard;

  void begin();
  void check_tokens(const int64_t* tokens, size_t columns, const int32_t* seq_lens) const;
  void check_capacity(const int32_t* more) const;
  void read_in(const int64_t* tokens, size_t columns, const int32_t* seq_lens);
  void keep_logits(const Logits& logits, const int32_t* seq_lens);
  void settle_logits();
  void remember(const int64_t* tokens, size_t columns, const int32_t* seq_lens);
  bool has_room(size_t row) const;
  bool choose(std::vector<int64_t>& chosen);
  void check_finite(size_t row) const;
  void read_chosen(const std::vector<int64_t>& chosen);
  Moment now() const;
  Snapshot snapshot(bool caches) const;
  void take(const Snapshot& snapshot);
  void go_on(const Moment& moment);

  std::shared_ptr<const Engine> engine_;
  const size_t capacity_;
  std::unique_ptr<States> states_;
  Moment now_;
  const float* fresh_ = nullptr;  // the logits where they still lie in the backend's memory; null: in now_
  std::optional<Checkpoints> checkpoints_;
  Chooser chooser_;
  std::vector<int64_t> step_tokens_;  // what generate() reads, kept from step to step
  std::vector<int32_t> step_lens_;
  std::atomic<bool> cancelled_{false};
  mutable std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

// A session in another thread's hands, while this lives.
struct Busy : UserError {
  using UserError::UserError;
};

class SessionGuard {
 public:
  explicit SessionGuard(const Session& session);  // throws Busy
  SessionGuard(const SessionGuard&) = delete;
  SessionGuard& operator=(const SessionGuard&) = delete;
  ~SessionGuard() { session_.busy_.clear(); }

 private:
  const Session& session_;
};

}  // namespace seqexport
