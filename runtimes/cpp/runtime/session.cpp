#include "session.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "session_file.h"

namespace seqexport {
namespace {

constexpr size_t kMostTokens = std::numeric_limits<int32_t>::max();  // of a sequence, as lengths are counted

size_t capacity_of(const Engine& engine, std::optional<size_t> given) {
  const std::optional<int64_t> most = engine.bundle().capacity;
  if (!most) return given.value_or(0);
  if (given.value_or(0) > size_t(*most))
    throw BadArgument("capacity of " + std::to_string(*given) + " tokens: the bundle was exported for at most " +
                    std::to_string(*most));
  return given.value_or(std::min(size_t(*most), engine.longest_cache()));
}

const char* advice(const std::string& dtype) {
  if (dtype == "float16") return "export in bf16 or fp32, whose numbers reach further";
  if (dtype == "bfloat16")
    return "export in fp32; if that does not help, the weights are not what the model was trained with";
  return "no dtype here reaches further: the weights are not what the model was trained with";
}

}  // namespace

Session::Session(std::shared_ptr<const Engine> engine, size_t batch, std::optional<size_t> capacity)
    : engine_(std::move(engine)), capacity_(capacity_of(*engine_, capacity)) {
  if (batch < 1) throw BadArgument("batch size 0: expected at least 1");
  now_.lengths.resize(batch);
  states_ = engine_->states(batch, capacity_);
  begin();
}

void Session::begin() {
  const size_t batch = now_.batch();
  now_.lengths.assign(batch, 0);
  now_.logits.assign(batch * size_t(engine_->model().vocab_size), 0);
  fresh_ = nullptr;
  now_.recent.assign(batch * kRecent, -1);
  now_.sampling = {};
  now_.generators.assign(batch, Generator::seeded(now_.sampling.seed));
}

std::unique_ptr<Session> Session::restore(std::shared_ptr<const Engine> engine, const std::filesystem::path& file,
                                          std::optional<size_t> capacity) {
  const Snapshot saved = read_session(file, engine->bundle());
  auto session = std::make_unique<Session>(std::move(engine), saved.batch(), capacity);
  session->check_capacity(saved.lengths.data());
  session->take(saved);
  return session;
}

std::unique_ptr<Session> Session::fork() const {
  auto other = std::make_unique<Session>(engine_, now_.batch(), capacity_);
  other->states_->copy(*states_, now_.position());
  other->go_on(now());
  other->checkpoints_ = checkpoints_;
  return other;
}

void Session::save(const std::filesystem::path& file) const {
  write_session(file, engine_->bundle(), snapshot(true));
}

void Session::check_tokens(const int64_t* tokens, size_t columns, const int32_t* seq_lens) const {
  const int64_t vocab = engine_->model().vocab_size;
  if (columns == 0) throw BadArgument("no tokens: expected at least one; the prompt is empty");
  for (size_t row = 0; row < now_.batch(); ++row) {
    if (seq_lens[row] < 0 || size_t(seq_lens[row]) > columns)
      throw BadArgument("seq_lens " + std::to_string(seq_lens[row]) + ": expected 0 to " + std::to_string(columns));
    for (size_t i = 0; i < columns; ++i)
      if (const int64_t token = tokens[row * columns + i]; token < 0 || token >= vocab)
        throw BadArgument("token " + std::to_string(token) + ": outside the vocabulary of " + std::to_string(vocab));
  }
  check_capacity(seq_lens);
}

void Session::check_capacity(const int32_t* more) const {
  for (size_t row = 0; row < now_.batch(); ++row) {
    const size_t length = size_t(now_.lengths[row]) + size_t(more[row]);
    if (length > kMostTokens)
      throw BadArgument("a sequence of " + std::to_string(length) + " tokens: a session counts to " +
                        std::to_string(kMostTokens) + "; begin another, or reset it");
    if (engine_->bundle().capacity && length > capacity_)
      throw BadArgument("a sequence of " + std::to_string(length) + " tokens: this session's capacity is " +
                      std::to_string(capacity_) + "; shorten the prompt, or give the session a larger capacity");
  }
}

void Session::prefill(const int64_t* tokens, size_t columns, const int32_t* seq_lens) {
  const size_t batch = now_.batch();
  const std::vector<int32_t> all(batch, int32_t(columns));
  if (!seq_lens) seq_lens = all.data();
  check_tokens(tokens, columns, seq_lens);
  const size_t longest_call = std::min(columns, engine_->longest_call());
  const size_t piece = checkpoints_ ? std::min(longest_call, checkpoints_->every()) : longest_call;
  if (piece == columns) return read_in(tokens, columns, seq_lens);
  std::vector<int64_t> part;
  std::vector<int32_t> lens(batch);
  const size_t longest = size_t(*std::max_element(seq_lens, seq_lens + batch));
  for (size_t start = 0; start < longest; start += piece) {
    const size_t width = std::min(piece, longest - start);
    part.resize(batch * width);
    for (size_t row = 0; row < batch; ++row) {
      std::copy_n(tokens + row * columns + start, width, part.begin() + ptrdiff_t(row * width));
      lens[row] = std::clamp(seq_lens[row] - int32_t(start), 0, int32_t(width));
    }
    read_in(part.data(), width, lens.data());
  }
}

void Session::read_in(const int64_t* tokens, size_t columns, const int32_t* seq_lens) {
  const bool step = columns == 1 && !std::count(seq_lens, seq_lens + batch(), 0);
  if (!step) settle_logits();
  const Logits logits = states_->run({tokens, columns, seq_lens, now_.lengths.data()});
  for (size_t row = 0; row < batch(); ++row) now_.lengths[row] += seq_lens[row];
  if (step)
    fresh_ = logits.values;
  else
    keep_logits(logits, seq_lens);
  remember(tokens, columns, seq_lens);
  if (checkpoints_ && checkpoints_->due(now_.position())) checkpoints_->add(snapshot(false));
}

void Session::keep_logits(const Logits& logits, const int32_t* seq_lens) {
  const auto vocab = size_t(engine_->model().vocab_size);
  for (size_t row = 0; row < batch(); ++row) {
    if (seq_lens[row] == 0) continue;
    const size_t last = row * logits.columns + (logits.columns == 1 ? 0 : size_t(seq_lens[row]) - 1);
    std::copy_n(logits.values + last * vocab, vocab, now_.logits.begin() + ptrdiff_t(row * vocab));
  }
}

void Session::settle_logits() {
  if (fresh_) std::copy_n(fresh_, now_.logits.size(), now_.logits.begin());
  fresh_ = nullptr;
}

void Session::remember(const int64_t* tokens, size_t columns, const int32_t* seq_lens) {
  for (size_t row = 0; row < now_.batch(); ++row) {
    int64_t* const recent = now_.recent.data() + row * kRecent;
    const auto given = size_t(seq_lens[row]), taken = std::min(given, kRecent);
    std::copy(recent + taken, recent + kRecent, recent);
    std::copy_n(tokens + row * columns + given - taken, taken, recent + kRecent - taken);
  }
}

bool Session::has_room(size_t row) const {
  return size_t(now_.lengths[row]) < (engine_->bundle().capacity ? capacity_ : kMostTokens);
}

void Session::check_finite(size_t row) const {
  const auto vocab = size_t(engine_->model().vocab_size);
  const float* const logits = this->logits() + row * vocab;
  if (all_finite(logits, vocab)) return;
  const auto bad = std::count_if(logits, logits + vocab, [](float value) { return !std::isfinite(value); });
  const std::string& dtype = engine_->bundle().dtype;
  throw UserError("the logits of sequence " + std::to_string(row + 1) + " after " +
                  std::to_string(now_.lengths[row]) + " tokens are not finite on " + engine_->name() + " in " + dtype +
                  ": " + std::to_string(bad) + " of " + std::to_string(vocab) + " values; " + advice(dtype));
}

// Whether any sequence goes on; one that has ended, before or now, has -1.
bool Session::choose(std::vector<int64_t>& chosen) {
  const LanguageModel& model = engine_->model();
  const auto vocab = size_t(model.vocab_size);
  bool any = false;
  for (size_t row = 0; row < now_.batch(); ++row) {
    if (chosen[row] < 0 || !has_room(row)) {
      chosen[row] = -1;
      continue;
    }
    check_finite(row);
    chosen[row] = chooser_.choose(now_.sampling, logits() + row * vocab, vocab, now_.generators[row]);
    if (std::count(model.eos_token_ids.begin(), model.eos_token_ids.end(), chosen[row])) chosen[row] = -1;
    any = any || chosen[row] >= 0;
  }
  return any;
}

void Session::read_chosen(const std::vector<int64_t>& chosen) {
  step_tokens_.resize(chosen.size());
  step_lens_.resize(chosen.size());
  for (size_t row = 0; row < chosen.size(); ++row) {
    step_lens_[row] = chosen[row] >= 0;
    step_tokens_[row] = std::max<int64_t>(chosen[row], 0);
  }
  read_in(step_tokens_.data(), 1, step_lens_.data());
}

bool Session::generate(size_t max_new_tokens, const std::optional<Sampling>& sampling, const OnTokens& on_tokens) {
  if (sampling) check(*sampling);
  if (std::count(now_.lengths.begin(), now_.lengths.end(), 0))
    throw BadArgument("the prompt is empty: give at least one token of text");
  if (sampling) {
    now_.sampling = *sampling;
    now_.generators.assign(now_.batch(), Generator::seeded(sampling->seed));
  }
  std::vector<int64_t> chosen(now_.batch(), 0);
  for (size_t made = 0; made < max_new_tokens; ++made) {
    if (cancelled_.exchange(false)) return true;
    if (!choose(chosen)) return false;
    const bool goes_on = on_tokens(chosen.data());
    read_chosen(chosen);
    if (!goes_on) return false;
  }
  return false;
}

void Session::keep(size_t every, size_t max_bytes) {
  if (every < 1) throw BadArgument("every 0: expected at least 1");
  const size_t needed = snapshot(false).bytes();
  if (needed > max_bytes)
    throw BadArgument("max_bytes " + std::to_string(max_bytes) + ": a checkpoint of this session takes " +
                    std::to_string(needed) + "; give more");
  checkpoints_.emplace(every, max_bytes);
}

size_t Session::rewind(size_t tokens) {
  const size_t position = now_.position();
  if (tokens > position)
    throw BadArgument("tokens " + std::to_string(tokens) + ": expected 0 to " + std::to_string(position) +
                    ", which the session has now");
  if (tokens == position) return position;
  const Snapshot* const kept = checkpoints_ ? checkpoints_->back_to(tokens) : nullptr;
  if (kept)
    take(*kept);
  else
    reset();
  return now_.position();
}

void Session::reset() {
  states_->clear();
  begin();
  if (checkpoints_) checkpoints_->back_to(0);
}

Moment Session::now() const {
  Moment taken = now_;
  if (fresh_) std::copy_n(fresh_, taken.logits.size(), taken.logits.begin());
  return taken;
}

Snapshot Session::snapshot(bool caches) const {
  const size_t rows = now_.position(), states = engine_->bundle().states.size();
  Snapshot taken{now(), std::vector<std::string>(states)};
  std::vector<StateRead> parts;
  for (size_t i = 0; i < states; ++i) {
    const Layout layout(engine_->bundle().states[i], batch());
    if (layout.grows && !caches) continue;
    taken.states[i].resize(layout.bytes(rows));
    parts.push_back({i, rows, taken.states[i].data()});
  }
  states_->read(parts);
  return taken;
}

void Session::take(const Snapshot& snapshot) {
  std::vector<StateWrite> parts;
  for (size_t i = 0; i < snapshot.states.size(); ++i)
    if (!snapshot.states[i].empty()) parts.push_back({i, snapshot.position(), snapshot.states[i].data()});
  states_->write(parts);
  go_on(snapshot);
}

void Session::go_on(const Moment& moment) {
  now_ = moment;
  fresh_ = nullptr;
}

SessionGuard::SessionGuard(const Session& session) : session_(session) {
  if (session_.busy_.test_and_set())
    throw Busy("this session is in use by another thread; give each thread a session of its own");
}

}  // namespace seqexport
