// seqexport.h in C++17: handles that close themselves, errors as exceptions. Header only; link seqexport.
//
//   const seqexport::Bundle bundle("my-mamba");
//   const seqexport::Engine engine(bundle);
//   seqexport::Session session(engine);
//   session.prefill_text("The state of a");
//   session.generate_text(64, {}, [](std::string_view text) { return bool(std::cout << text << std::flush); });
//   session.save("talk.safetensors");
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "seqexport.h"

namespace seqexport {
inline namespace v1 {  // apart from what the library itself calls so

// what() is one line: the thing, what was expected, what came, what to do.
class Error : public std::runtime_error {
 public:
  explicit Error(seqexport_status status) : std::runtime_error(seqexport_message()), status_(status) {}
  seqexport_status status() const noexcept { return status_; }

 private:
  seqexport_status status_;
};

inline void check(seqexport_status status) {
  if (status != SEQEXPORT_OK) throw Error(status);
}

struct Close {
  void operator()(seqexport_bundle* p) const { seqexport_bundle_close(p); }
  void operator()(seqexport_engine* p) const { seqexport_engine_close(p); }
  void operator()(seqexport_session* p) const { seqexport_session_close(p); }
};

template <class T>
class Handle {
 public:
  T* get() const noexcept { return handle_.get(); }

 protected:
  std::unique_ptr<T, Close> handle_;
};

// Opens a bundle's folder and checks it.
class Bundle : public Handle<seqexport_bundle> {
 public:
  explicit Bundle(const std::string& folder) {
    seqexport_bundle* made = nullptr;
    check(seqexport_bundle_open(folder.c_str(), &made));
    handle_.reset(made);
  }
  int64_t vocab_size() const { return seqexport_bundle_vocab_size(get()); }
  int64_t capacity() const { return seqexport_bundle_capacity(get()); }
  // Throws Error unless text can be given and taken: each token is a byte.
  void check_text() const { check(seqexport_bundle_check_text(get())); }
};

struct EngineOptions {
  int threads = 0;          // of the CPU; 0: every core that this process may use
  std::string plugins;      // the library of our ops; empty: the one that `seqexport plugins build` made, if it did
  int device = 0;           // the GPU, as CUDA counts them
  bool use_plugins = true;  // false: no library of our ops
};

// The weights, which sessions share.
class Engine : public Handle<seqexport_engine> {
 public:
  explicit Engine(const Bundle& bundle, const EngineOptions& options = {}) {
    seqexport_engine* made = nullptr;
    const bool built = options.use_plugins && options.plugins.empty();
    const char* const plugins = built ? nullptr : options.use_plugins ? options.plugins.c_str() : "";
    check(seqexport_engine_open_on(bundle.get(), options.device, options.threads, plugins, &made));
    handle_.reset(made);
  }
  std::string description() const { return seqexport_engine_description(get()); }
};

using Sampling = seqexport_sampling;

// A batch of sequences and all that the model remembers of them. One thread at a time, but for cancel().
class Session : public Handle<seqexport_session> {
 public:
  explicit Session(const Engine& engine, size_t batch = 1, size_t capacity = 0) {
    seqexport_session* made = nullptr;
    check(seqexport_session_open(engine.get(), batch, capacity, &made));
    handle_.reset(made);
  }

  static Session restore(const Engine& engine, const std::string& file, size_t capacity = 0) {
    seqexport_session* made = nullptr;
    check(seqexport_session_restore(engine.get(), file.c_str(), capacity, &made));
    return Session(made);
  }

  Session fork() const {
    seqexport_session* made = nullptr;
    check(seqexport_session_fork(get(), &made));
    return Session(made);
  }

  size_t batch() const { return seqexport_session_batch(get()); }
  const int32_t* lengths() const { return seqexport_session_lengths(get()); }  // [batch]
  const float* logits() const { return seqexport_session_logits(get()); }      // [batch, vocab]

  // Tokens of one sequence, or [batch, columns] of several, all of which are valid.
  void prefill(const std::vector<int64_t>& tokens) { prefill(tokens, nullptr); }

  // Right-padded tokens [batch, columns], of which the first seq_lens[b] of sequence b are valid.
  void prefill(const std::vector<int64_t>& tokens, const std::vector<int32_t>& seq_lens) {
    prefill(tokens, seq_lens.data());
  }

  // Tells each token of one sequence, which stops it by giving false. No sampling: as before. False: it was cancelled.
  bool generate(size_t max_new_tokens, const std::optional<Sampling>& sampling,
                const std::function<bool(int64_t)>& on_token) {
    return generate_batch(max_new_tokens, sampling, [&](const int64_t* tokens) { return on_token(*tokens); });
  }

  // The same with the tokens [batch] of each step; -1 for a sequence that has ended.
  bool generate_batch(size_t max_new_tokens, const std::optional<Sampling>& sampling,
                      const std::function<bool(const int64_t*)>& on_tokens) {
    Callback<const int64_t*> callback{on_tokens, nullptr};
    return callback.ended(seqexport_session_generate(get(), max_new_tokens, sampling ? &*sampling : nullptr,
                                                     &callback.call, &callback));
  }

  // Reads a text, where the session has one sequence and Bundle::check_text() is content.
  void prefill_text(std::string_view text) { check(seqexport_session_prefill_text(get(), text.data(), text.size())); }

  // generate() that tells text, whole characters of it, as it comes.
  bool generate_text(size_t max_new_tokens, const std::optional<Sampling>& sampling,
                     const std::function<bool(std::string_view)>& on_text) {
    const std::function<bool(const char*, size_t)> on_piece = [&](const char* text, size_t bytes) {
      return on_text({text, bytes});
    };
    Callback<const char*, size_t> callback{on_piece, nullptr};
    return callback.ended(seqexport_session_generate_text(get(), max_new_tokens, sampling ? &*sampling : nullptr,
                                                          &callback.call, &callback));
  }

  void cancel() noexcept { seqexport_session_cancel(get()); }
  void save(const std::string& file) const { check(seqexport_session_save(get(), file.c_str())); }
  void keep(size_t every, size_t max_bytes) { check(seqexport_session_keep(get(), every, max_bytes)); }
  void reset() { check(seqexport_session_reset(get())); }

  size_t rewind(size_t tokens) {
    size_t now = 0;
    check(seqexport_session_rewind(get(), tokens, &now));
    return now;
  }

 private:
  // An exception of the caller's waits until the C interface is left.
  template <class... Told>
  struct Callback {
    const std::function<bool(Told...)>& on_told;
    std::exception_ptr thrown;

    static int call(void* user, Told... told) noexcept {
      auto& self = *static_cast<Callback*>(user);
      try {
        return self.on_told(told...);
      } catch (...) {
        self.thrown = std::current_exception();
        return 0;
      }
    }

    // False: it was cancelled.
    bool ended(seqexport_status status) const {
      if (thrown) std::rethrow_exception(thrown);
      if (status != SEQEXPORT_CANCELLED) check(status);
      return status != SEQEXPORT_CANCELLED;
    }
  };

  explicit Session(seqexport_session* handle) { handle_.reset(handle); }

  void prefill(const std::vector<int64_t>& tokens, const int32_t* seq_lens) {
    check(seqexport_session_prefill(get(), tokens.data(), tokens.size() / batch(), seq_lens));
  }
};

}  // namespace v1
}  // namespace seqexport
