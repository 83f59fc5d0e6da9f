// The C interface: handles, and exceptions as status and message.
#include <exception>
#include <new>
#include <stdexcept>

#include "error.h"
#include "manifest.h"
#include "seqexport.h"
#include "session.h"
#include "text.h"

using namespace seqexport;

struct seqexport_bundle {
  Bundle bundle;
};

struct seqexport_engine {
  std::shared_ptr<const Engine> engine;
  std::string description;
};

struct seqexport_session {
  std::unique_ptr<Session> session;
};

namespace {

constexpr char kNoMemory[] = "out of memory; use a smaller batch or capacity, or close other sessions";

thread_local std::string message;

seqexport_status told(seqexport_status status, const char* what) noexcept {
  try {
    message = plain(what);  // a line, whatever a file's name holds
  } catch (...) {
    message.clear();
  }
  return status;
}

// A UserError of `body` has the status `refused`.
template <class Body>
seqexport_status guarded(seqexport_status refused, Body&& body) noexcept {
  try {
    return body();
  } catch (const Busy& error) {
    return told(SEQEXPORT_BUSY, error.what());
  } catch (const BadArgument& error) {
    return told(SEQEXPORT_BAD_ARGUMENT, error.what());
  } catch (const NoMemory& error) {
    return told(SEQEXPORT_NO_MEMORY, error.what());
  } catch (const NoText& error) {
    return told(SEQEXPORT_BAD_BUNDLE, error.what());
  } catch (const UserError& error) {
    return told(refused, error.what());
  } catch (const std::bad_alloc&) {
    return told(SEQEXPORT_NO_MEMORY, kNoMemory);
  } catch (const std::length_error&) {  // more than any memory has
    return told(SEQEXPORT_NO_MEMORY, kNoMemory);
  } catch (const std::exception& error) {
    return told(SEQEXPORT_INTERNAL, error.what());
  } catch (...) {
    return told(SEQEXPORT_INTERNAL, "unknown error");
  }
}

template <class Body>
seqexport_status in_session(const seqexport_session* handle, seqexport_status refused, Body&& body) noexcept {
  return guarded(refused, [&] {
    if (!handle) throw BadArgument("session: expected it not to be null");
    const SessionGuard guard(*handle->session);
    return body(*handle->session);
  });
}

std::optional<size_t> limit(size_t capacity) { return capacity ? std::optional(capacity) : std::nullopt; }

std::optional<Sampling> given(const seqexport_sampling* sampling) {
  if (!sampling) return std::nullopt;
  return Sampling{sampling->temperature, sampling->top_k, sampling->top_p, sampling->seed};
}

seqexport_status ended(bool cancelled) { return cancelled ? told(SEQEXPORT_CANCELLED, "cancelled") : SEQEXPORT_OK; }

// Throws BadArgument if any of the arguments with these names is null.
template <class... Pointer>
void require(const char* names, Pointer... given) {
  if ((!given || ...)) throw BadArgument(std::string(names) + ": expected none to be null");
}

}  // namespace

const char* seqexport_message(void) { return message.c_str(); }
const char* seqexport_version(void) { return SEQEXPORT_VERSION; }

seqexport_status seqexport_bundle_open(const char* folder, seqexport_bundle** bundle) {
  return guarded(SEQEXPORT_BAD_BUNDLE, [&] {
    require("folder, bundle", folder, bundle);
    Bundle opened = open_bundle(folder);
    if (!opened.language_model)
      throw UserError(opened.folder.string() + ": no language model's; sessions need tokens and logits");
    *bundle = new seqexport_bundle{std::move(opened)};
    return SEQEXPORT_OK;
  });
}

void seqexport_bundle_close(seqexport_bundle* bundle) { delete bundle; }

int64_t seqexport_bundle_vocab_size(const seqexport_bundle* bundle) {
  return bundle->bundle.language_model->vocab_size;
}

int64_t seqexport_bundle_capacity(const seqexport_bundle* bundle) { return bundle->bundle.capacity.value_or(0); }

seqexport_status seqexport_bundle_check_text(const seqexport_bundle* bundle) {
  return guarded(SEQEXPORT_BAD_BUNDLE, [&] {
    require("bundle", bundle);
    ByteTokenizer{bundle->bundle};
    return SEQEXPORT_OK;
  });
}

seqexport_status seqexport_engine_open(const seqexport_bundle* bundle, int threads, const char* plugins,
                                       seqexport_engine** engine) {
  return seqexport_engine_open_on(bundle, 0, threads, plugins, engine);
}

seqexport_status seqexport_engine_open_on(const seqexport_bundle* bundle, int device, int threads, const char* plugins,
                                          seqexport_engine** engine) {
  return guarded(SEQEXPORT_BAD_BUNDLE, [&] {
    require("bundle, engine", bundle, engine);
    if (threads < 0) throw BadArgument("threads " + std::to_string(threads) + ": expected at least 0");
    auto opened = open_engine(bundle->bundle, {threads, plugins ? plugins : "", device, !plugins || *plugins});
    std::string description = opened->description();
    *engine = new seqexport_engine{std::move(opened), std::move(description)};
    return SEQEXPORT_OK;
  });
}

void seqexport_engine_close(seqexport_engine* engine) { delete engine; }
const char* seqexport_engine_description(const seqexport_engine* engine) { return engine->description.c_str(); }

seqexport_status seqexport_session_open(const seqexport_engine* engine, size_t batch, size_t capacity,
                                        seqexport_session** session) {
  return guarded(SEQEXPORT_FAILED, [&] {
    require("engine, session", engine, session);
    *session = new seqexport_session{std::make_unique<Session>(engine->engine, batch, limit(capacity))};
    return SEQEXPORT_OK;
  });
}

seqexport_status seqexport_session_restore(const seqexport_engine* engine, const char* file, size_t capacity,
                                           seqexport_session** session) {
  return guarded(SEQEXPORT_BAD_FILE, [&] {
    require("engine, file, session", engine, file, session);
    *session = new seqexport_session{Session::restore(engine->engine, file, limit(capacity))};
    return SEQEXPORT_OK;
  });
}

seqexport_status seqexport_session_fork(const seqexport_session* session, seqexport_session** fork) {
  return in_session(session, SEQEXPORT_FAILED, [&](const Session& from) {
    require("fork", fork);
    *fork = new seqexport_session{from.fork()};
    return SEQEXPORT_OK;
  });
}

void seqexport_session_close(seqexport_session* session) { delete session; }
size_t seqexport_session_batch(const seqexport_session* session) { return session->session->batch(); }
const int32_t* seqexport_session_lengths(const seqexport_session* session) {
  return session->session->lengths().data();
}
const float* seqexport_session_logits(const seqexport_session* session) {
  return session->session->logits();
}

seqexport_status seqexport_session_prefill(seqexport_session* session, const int64_t* tokens, size_t columns,
                                           const int32_t* seq_lens) {
  return in_session(session, SEQEXPORT_FAILED, [&](Session& into) {
    if (columns > 0) require("tokens", tokens);
    into.prefill(tokens, columns, seq_lens);
    return SEQEXPORT_OK;
  });
}

seqexport_status seqexport_session_prefill_text(seqexport_session* session, const char* text, size_t bytes) {
  return in_session(session, SEQEXPORT_FAILED, [&](Session& into) {
    if (bytes > 0) require("text", text);
    const std::vector<int64_t> tokens = ByteTokenizer(into.bundle()).encode({text, bytes});
    into.prefill(tokens.data(), tokens.size(), nullptr);
    return SEQEXPORT_OK;
  });
}

seqexport_status seqexport_session_generate(seqexport_session* session, size_t max_new_tokens,
                                            const seqexport_sampling* sampling, seqexport_on_tokens on_tokens,
                                            void* user) {
  return in_session(session, SEQEXPORT_FAILED, [&](Session& from) {
    require("on_tokens", on_tokens);
    const auto on_step = [&](const int64_t* tokens) { return on_tokens(user, tokens) != 0; };
    return ended(from.generate(max_new_tokens, given(sampling), on_step));
  });
}

seqexport_status seqexport_session_generate_text(seqexport_session* session, size_t max_new_tokens,
                                                 const seqexport_sampling* sampling, seqexport_on_text on_text,
                                                 void* user) {
  return in_session(session, SEQEXPORT_FAILED, [&](Session& from) {
    require("on_text", on_text);
    const auto on_piece = [&](std::string_view text) { return on_text(user, text.data(), text.size()) != 0; };
    return ended(generate_text(from, ByteTokenizer(from.bundle()), max_new_tokens, given(sampling), on_piece));
  });
}

void seqexport_session_cancel(seqexport_session* session) {
  if (session) session->session->cancel();
}

seqexport_status seqexport_session_save(const seqexport_session* session, const char* file) {
  return in_session(session, SEQEXPORT_BAD_FILE, [&](const Session& from) {
    require("file", file);
    from.save(file);
    return SEQEXPORT_OK;
  });
}

seqexport_status seqexport_session_keep(seqexport_session* session, size_t every, size_t max_bytes) {
  return in_session(session, SEQEXPORT_FAILED, [&](Session& from) {
    from.keep(every, max_bytes);
    return SEQEXPORT_OK;
  });
}

seqexport_status seqexport_session_rewind(seqexport_session* session, size_t tokens, size_t* now) {
  return in_session(session, SEQEXPORT_FAILED, [&](Session& from) {
    const size_t position = from.rewind(tokens);
    if (now) *now = position;
    return SEQEXPORT_OK;
  });
}

seqexport_status seqexport_session_reset(seqexport_session* session) {
  return in_session(session, SEQEXPORT_FAILED, [&](Session& from) {
    from.reset();
    return SEQEXPORT_OK;
  });
}
