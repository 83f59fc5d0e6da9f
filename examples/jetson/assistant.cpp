// A console assistant over a bundle: text as it comes, tokens a second, memory, and a session that outlives the program.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "memory.h"
#include "options.h"

namespace {

using seqexport::Engine;
using seqexport::Session;
using Clock = std::chrono::steady_clock;

std::atomic<seqexport_session*> running{nullptr};
volatile std::sig_atomic_t stopped = 0;

void stop(int) {
  stopped = 1;
  seqexport_session_cancel(running);
}

// Signals end an answer, and the wait for a line too; nobody left to read it is an error of the output, and no signal.
void stop_on_signals() {
  struct sigaction action {};
  action.sa_handler = stop;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Session opened(const Engine& engine, const Options& options) {
  if (!std::ifstream(options.session)) return Session(engine, 1, options.capacity);
  Session session = Session::restore(engine, options.session, options.capacity);
  std::fprintf(stderr, "%s: goes on after %d tokens\n", options.session.c_str(), session.lengths()[0]);
  return session;
}

void answer(Session& session, const std::string& line, const Options& options,
            const std::optional<seqexport::Sampling>& sampling) {
  const auto asked = Clock::now();
  session.prefill_text(line + "\n");
  const auto read = Clock::now();
  const int before = session.lengths()[0];
  double first = 0;
  session.generate_text(options.max_new_tokens, sampling, [&](std::string_view text) {
    if (first == 0) first = seconds_since(asked);
    return bool(std::cout << text << std::flush);
  });
  const double took = seconds_since(read);
  const int made = session.lengths()[0] - before;
  std::cout << std::endl;
  std::fprintf(stderr, "[%d tokens, %.1f tokens/s, the first after %.0f ms; %s]\n", made, made / took, 1000 * first,
               memory().c_str());
}

bool next_line(std::string& line) {
  if (isatty(STDIN_FILENO)) std::cout << "> " << std::flush;
  return std::cout && !stopped && std::getline(std::cin, line);
}

void talk(Session& session, const Options& options, bool is_new) {
  auto sampling = is_new || options.samples ? std::optional(options.sampling) : std::nullopt;
  for (std::string line; next_line(line);) {
    try {
      if (line == "/reset") {
        session.reset();
        sampling = options.sampling;
        continue;
      }
      answer(session, line, options, sampling);
      sampling.reset();  // the random numbers go on
    } catch (const seqexport::Error& error) {
      std::fprintf(stderr, "error: %s\n(/reset begins anew)\n", error.what());
    }
  }
}

int run(const Options& options) {
  const auto start = Clock::now();
  const seqexport::Bundle bundle(options.bundle);
  bundle.check_text();
  const Engine engine(bundle, options.engine);
  Session session = opened(engine, options);
  std::fprintf(stderr, "%s; ready after %.1f s; %s\n", engine.description().c_str(), seconds_since(start),
               memory().c_str());
  running = session.get();
  stop_on_signals();
  talk(session, options, session.lengths()[0] == 0);
  session.save(options.session);
  std::fprintf(stderr, "\n%s: saved after %d tokens\n", options.session.c_str(), session.lengths()[0]);
  return stopped ? 130 : 0;
}

}  // namespace

int main(int count, char** words) try {
  const Options options = parse(count, words);
  return options.bundle.empty() ? std::fputs(kUsage, stdout) < 0 : run(options);
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
