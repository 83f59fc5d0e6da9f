#include "measures.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>

#include "bare.h"
#include "error.h"
#include "session.h"
#include "timing.h"

namespace seqexport {
namespace {

using nlohmann::ordered_json;

constexpr size_t kWarm = 20, kSaid = 24, kLarge = size_t(256) << 20;

std::vector<int64_t> some_tokens(const Measured& of, size_t count) {
  std::vector<int64_t> tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = int64_t(i * 7919 + 1) % of.engine->model().vocab_size;
  return tokens;
}

// Rows of its caches, as a session without a limit has them.
size_t capacity(const Measured& of) {
  const auto most = of.engine->bundle().capacity;
  return most ? std::min(size_t(*most), of.engine->longest_cache()) : 0;
}

std::unique_ptr<Session> opened(const Measured& of) {
  auto session = std::make_unique<Session>(of.engine, 1, std::nullopt);
  session->prefill(some_tokens(of, 16).data(), 16, nullptr);
  return session;
}

void step(Session& session) {
  const int64_t token = 1;
  session.prefill(&token, 1, nullptr);
}

double a_step(const Measured& of, Session& session) {
  for (size_t i = 0; i < kWarm; ++i) step(session);
  return seconds(of.steps, [&] { step(session); });
}

// Tokens that are chosen, whatever ends a text.
double a_token(const Measured& of, Session& session) {
  size_t made = 0;
  double spent = 0;
  while (made < of.steps) {
    session.reset();
    session.prefill(some_tokens(of, 16).data(), 16, nullptr);
    const double start = now();
    const size_t before = made;
    session.generate(of.steps, Sampling{}, [&](const int64_t*) { return ++made < of.steps; });
    spent += now() - start;
    if (made == before) throw UserError("the model ends every text at once; give another");
  }
  return spent / double(made);
}

using Texts = std::array<std::vector<int64_t>, 2>;

// What two sessions say after different prompts, `stretch` tokens of each at a time.
Texts said(const Measured& of, size_t stretch) {
  Texts texts;
  std::array<std::unique_ptr<Session>, 2> sessions;
  for (const size_t which : {0, 1}) {
    sessions[which] = std::make_unique<Session>(of.engine, 1, std::nullopt);
    const auto prompt = some_tokens(of, 16 + 5 * which);
    sessions[which]->prefill(prompt.data(), prompt.size(), nullptr);
  }
  for (size_t made = 0; made < kSaid; made += stretch)
    for (const size_t which : {0, 1})
      sessions[which]->generate(stretch, std::nullopt, [&](const int64_t* token) {
        texts[which].push_back(*token);
        return true;
      });
  return texts;
}

size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  size_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * size_t(sysconf(_SC_PAGESIZE));
}

size_t device_free() {
  size_t free = 0, all = 0;
  trt::check(cudaMemGetInfo(&free, &all), "cudaMemGetInfo");
  return free;
}

// Bytes a second of page-locked copies of so many bytes.
ordered_json bandwidth(size_t bytes, size_t repeats) {
  const auto stream = trt::create_stream();
  const auto device = trt::allocate_device(bytes);
  const auto host = trt::allocate_pinned(bytes);
  const double out = seconds(repeats, [&] {
    trt::copy_out(host.get(), device.get(), bytes, stream.get());
    trt::synchronize(stream.get());
  });
  const double in = seconds(repeats, [&] {
    trt::copy_in(device.get(), host.get(), bytes, stream.get());
    trt::synchronize(stream.get());
  });
  return {{"to_host", double(bytes) / out}, {"to_device", double(bytes) / in}};
}

}  // namespace

ordered_json decode(const Measured& of) {
  const auto session = opened(of);
  const trt::Bare bare(*of.engine, capacity(of));
  const auto launched = [&] {
    bare.launch();
    bare.wait();
  };
  for (size_t i = 0; i < kWarm; ++i) launched();
  ordered_json found;
  // Each is timed twice, in turns, so that a clock that changes is seen.
  for (const char* round : {"first", "second"}) {
    ordered_json& here = found[round];
    here["bare"] = seconds(of.steps, launched);
    const double start = now();
    for (size_t i = 0; i < of.steps; ++i) bare.launch();
    bare.wait();
    here["bare_back_to_back"] = (now() - start) / double(of.steps);
    here["step"] = a_step(of, *session);
    here["token"] = a_token(of, *session);
  }
  found["captured"] = of.engine->executor().captures();
  found["no_graph"] = of.engine->executor().no_graph();
  return found;
}

ordered_json switching(const Measured& of) {
  const auto one = opened(of), other = opened(of);
  a_step(of, *other);
  const double alone = a_step(of, *one);
  size_t turn = 0;
  const double in_turns = seconds(of.steps, [&] { step(turn++ % 2 ? *one : *other); });
  return {{"alone", alone}, {"in_turns", in_turns}, {"switch", in_turns - alone},
          {"same_tokens", said(of, 1) == said(of, kSaid)}};
}

ordered_json disk(const Measured& of) {
  const auto session = opened(of);
  const Bundle& bundle = of.engine->bundle();
  const auto prompt = some_tokens(of, of.prompt);
  const double prefill = seconds(5, [&] {
    session->reset();
    session->prefill(prompt.data(), prompt.size(), nullptr);
  });
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / ("embedded-speed-" + std::to_string(getpid()) + ".safetensors");
  const double save = seconds(3, [&] { session->save(file); });
  std::unique_ptr<Session> again;
  const double restore = seconds(3, [&] { again = Session::restore(of.engine, file, std::nullopt); });
  std::filesystem::remove(file);
  const double fork = seconds(5, [&] { again = session->fork(); });
  again.reset();

  const auto states = of.engine->states(1, capacity(of));
  std::vector<std::string> held;
  std::vector<StateRead> reads;
  std::vector<StateWrite> writes;
  size_t bytes = 0;
  for (const State& state : bundle.states) held.emplace_back(Layout(state, 1).bytes(of.prompt), '\0');
  for (size_t i = 0; i < held.size(); ++i) {
    reads.push_back({i, of.prompt, held[i].data()});
    writes.push_back({i, of.prompt, held[i].data()});
    bytes += held[i].size();
  }
  const double read = seconds(20, [&] { states->read(reads); }), write = seconds(20, [&] { states->write(writes); });
  return {{"bytes", bytes}, {"prompt", of.prompt}, {"prefill", prefill}, {"save", save}, {"restore", restore},
          {"fork", fork}, {"read", read}, {"write", write}, {"copy", bandwidth(bytes, 20)},
          {"large_copy", bandwidth(kLarge, 10)}};
}

ordered_json flat(const Measured& of) {
  ordered_json seen = ordered_json::array();
  const auto note = [&](size_t sessions) {
    seen.push_back({{"sessions", sessions}, {"resident", resident_bytes()}, {"device_free", device_free()}});
  };
  const double start = now();
  for (size_t i = 1; i <= of.sessions; ++i) {
    const auto session = opened(of);
    for (int j = 0; j < 4; ++j) step(*session);
    if (i == of.sessions / 10 || i == of.sessions) note(i);
  }
  return {{"seen", seen}, {"seconds_each", (now() - start) / double(of.sessions)}};
}

}  // namespace seqexport
