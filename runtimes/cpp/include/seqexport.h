/* seqexport: runs a bundle that `seqexport onnx` wrote: tokens or text in and out, and sessions that live on disk.
 *
 * Handles are opaque. A function that can fail gives a seqexport_status and leaves what it was given as it was; what went
 * wrong is one line in seqexport_message() of the same thread. No C++ exception crosses this interface. Texts are UTF-8,
 * sizes are in elements unless they say bytes. A bundle may be closed while engines of it live, an engine while sessions do.
 *
 * A session belongs to one thread at a time: a call while another thread is in the same session gives SEQEXPORT_BUSY. Only
 * seqexport_session_cancel may be called at any time. Sessions of one engine may run in threads of their own.
 */
#ifndef SEQEXPORT_H
#define SEQEXPORT_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SEQEXPORT_API __attribute__((visibility("default")))
#else
#define SEQEXPORT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum seqexport_status {
  SEQEXPORT_OK = 0,
  SEQEXPORT_BAD_ARGUMENT = 1,  /* what a call was given is not what it takes: a token, a length, a null handle */
  SEQEXPORT_BAD_BUNDLE = 2,    /* missing, damaged, of another version, or nothing that this backend runs */
  SEQEXPORT_BAD_FILE = 3,      /* a session's file: unreadable, not writable, damaged, or of another model or dtype */
  SEQEXPORT_FAILED = 4,        /* the backend failed, or gave logits that are not finite */
  SEQEXPORT_BUSY = 5,          /* another thread is in this session */
  SEQEXPORT_CANCELLED = 6,     /* seqexport_session_cancel was called; the session goes on from here */
  SEQEXPORT_NO_MEMORY = 7,
  SEQEXPORT_INTERNAL = 8       /* a fault of seqexport itself */
} seqexport_status;

typedef struct seqexport_bundle seqexport_bundle;
typedef struct seqexport_engine seqexport_engine;
typedef struct seqexport_session seqexport_session;

/* What went wrong in this thread's last call that failed; empty before there is one. Holds until this thread's next call. */
SEQEXPORT_API const char* seqexport_message(void);
SEQEXPORT_API const char* seqexport_version(void);

/* Opens a bundle's folder and checks it: its format's version, and the sha256 of its graph and weights. */
SEQEXPORT_API seqexport_status seqexport_bundle_open(const char* folder, seqexport_bundle** bundle);
SEQEXPORT_API void seqexport_bundle_close(seqexport_bundle* bundle); /* null is let be, here and below */
SEQEXPORT_API int64_t seqexport_bundle_vocab_size(const seqexport_bundle* bundle);
SEQEXPORT_API int64_t seqexport_bundle_capacity(const seqexport_bundle* bundle); /* tokens; 0 where nothing grows */
/* Whether text can be given and taken, which is where each token is a byte, as in the shipped models. Otherwise
 * SEQEXPORT_BAD_BUNDLE; give tokens, which `seqexport tokens` makes of text. */
SEQEXPORT_API seqexport_status seqexport_bundle_check_text(const seqexport_bundle* bundle);

/* Loads the weights, once for all sessions; in TensorRT onto the first GPU.
 * threads  of the CPU; 0: every core that this process may use
 * plugins  the library of our ops, as libseqexport_ort.so or libseqexport_tensorrt.so; null: the one that `seqexport plugins
 *          build` made, without which ONNX Runtime computes the function bodies in the bundle; "": none */
SEQEXPORT_API seqexport_status seqexport_engine_open(const seqexport_bundle* bundle, int threads, const char* plugins,
                                                     seqexport_engine** engine);
/* The same on another GPU: `device` as CUDA counts them. In ONNX Runtime there is only device 0, the CPU. */
SEQEXPORT_API seqexport_status seqexport_engine_open_on(const seqexport_bundle* bundle, int device, int threads,
                                                        const char* plugins, seqexport_engine** engine);
SEQEXPORT_API void seqexport_engine_close(seqexport_engine* engine);
/* Backend, version and what computes our ops; holds as long as the engine. */
SEQEXPORT_API const char* seqexport_engine_description(const seqexport_engine* engine);

/* `batch` empty sequences. capacity: the most tokens that one may have; 0: all that the bundle allows. */
SEQEXPORT_API seqexport_status seqexport_session_open(const seqexport_engine* engine, size_t batch, size_t capacity,
                                                      seqexport_session** session);
/* A session that was saved, by this library or in Python, on this backend or another: it goes on token for token. */
SEQEXPORT_API seqexport_status seqexport_session_restore(const seqexport_engine* engine, const char* file, size_t capacity,
                                                         seqexport_session** session);
/* A second session that goes on from here on its own. */
SEQEXPORT_API seqexport_status seqexport_session_fork(const seqexport_session* session, seqexport_session** fork);
SEQEXPORT_API void seqexport_session_close(seqexport_session* session);

SEQEXPORT_API size_t seqexport_session_batch(const seqexport_session* session);
/* Tokens that each sequence has, and logits [batch, vocab] after its last one. Hold until the session's next call. */
SEQEXPORT_API const int32_t* seqexport_session_lengths(const seqexport_session* session);
SEQEXPORT_API const float* seqexport_session_logits(const seqexport_session* session);

/* Reads tokens [batch, columns], right-padded, of which the first seq_lens[b] of sequence b are valid; null: all are. */
SEQEXPORT_API seqexport_status seqexport_session_prefill(seqexport_session* session, const int64_t* tokens,
                                                         size_t columns, const int32_t* seq_lens);

/* Reads the tokens of a text of so many bytes, in a session of one sequence. What is not UTF-8 becomes U+FFFD. */
SEQEXPORT_API seqexport_status seqexport_session_prefill_text(seqexport_session* session, const char* text, size_t bytes);

/* How tokens are chosen; the same seed gives the same tokens as in Python. */
typedef struct seqexport_sampling {
  double temperature; /* 0: the likeliest token */
  int64_t top_k;      /* choose among so many of the likeliest; 0: all */
  double top_p;       /* choose among the likeliest that together reach this probability; 1: all */
  uint64_t seed;
} seqexport_sampling;

/* Told the tokens [batch] of one step, -1 for a sequence that has ended; 0 ends the generation. */
typedef int (*seqexport_on_tokens)(void* user, const int64_t* tokens);

/* Goes on after what was read, a token a sequence at a time, until all have ended (with an end-of-text token, which is not
 * told, or a full cache), max_new_tokens came, or it is told to stop. Every token that was told has then been read: what
 * is fed next comes after it. sampling: null goes on as before, with the random numbers that would have come. */
SEQEXPORT_API seqexport_status seqexport_session_generate(seqexport_session* session, size_t max_new_tokens,
                                                          const seqexport_sampling* sampling,
                                                          seqexport_on_tokens on_tokens, void* user);
/* Told text of so many bytes, always whole characters; 0 ends the generation. */
typedef int (*seqexport_on_text)(void* user, const char* text, size_t bytes);

/* The same for the text of one sequence. A character of which not all bytes came is U+FFFD at the end. */
SEQEXPORT_API seqexport_status seqexport_session_generate_text(seqexport_session* session, size_t max_new_tokens,
                                                               const seqexport_sampling* sampling,
                                                               seqexport_on_text on_text, void* user);
/* From any thread: ends the generation that runs, or the next one, after the token that it is at. */
SEQEXPORT_API void seqexport_session_cancel(seqexport_session* session);

/* Writes all that the session is, but for its checkpoints; the file appears whole or not at all. */
SEQEXPORT_API seqexport_status seqexport_session_save(const seqexport_session* session, const char* file);
/* From now on keeps checkpoints, at least `every` tokens apart; the oldest go where all would take more than max_bytes. */
SEQEXPORT_API seqexport_status seqexport_session_keep(seqexport_session* session, size_t every, size_t max_bytes);
/* Goes back to the newest checkpoint of at most so many tokens, or else to the start. now: tokens of the longest sequence
 * then; null if it is not asked for. What came after them is to be fed again. */
SEQEXPORT_API seqexport_status seqexport_session_rewind(seqexport_session* session, size_t tokens, size_t* now);
/* Makes it empty again. */
SEQEXPORT_API seqexport_status seqexport_session_reset(seqexport_session* session);

#ifdef __cplusplus
}
#endif
#endif
