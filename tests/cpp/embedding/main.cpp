// What a session offers, one command a line on stdin, over seqexport.hpp; an answer a line on stdout.
//
//   embedding BUNDLE [PLUGINS]
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <thread>

#include "seqexport.hpp"

namespace {

using seqexport::Engine;
using seqexport::Session;
using Words = std::istringstream;

template <class T>
std::vector<T> rest(Words& words) {
  std::vector<T> values;
  for (T value; words >> value;) values.push_back(value);
  return values;
}

std::string generated(Session& session, Words& words) {
  size_t count = 0, stop_after = 0;
  seqexport::Sampling sampling{};
  words >> count >> stop_after;
  const bool samples(words >> sampling.temperature >> sampling.top_k >> sampling.top_p >> sampling.seed);
  std::string text;
  size_t steps = 0;
  session.generate_batch(count, samples ? std::optional(sampling) : std::nullopt, [&](const int64_t* tokens) {
    for (size_t row = 0; row < session.batch(); ++row) text += std::to_string(tokens[row]) + " ";
    return ++steps != stop_after;
  });
  return text;
}

// Bytes as pairs of hexadecimal digits, and back.
std::string hex(std::string_view bytes) {
  std::ostringstream text;
  for (const unsigned char byte : bytes) text << "0123456789abcdef"[byte >> 4] << "0123456789abcdef"[byte & 15];
  return text.str();
}

std::string unhex(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i < text.size(); i += 2) bytes += char(std::stoi(text.substr(i, 2), nullptr, 16));
  return bytes;
}

// Each piece of text in hexadecimal; it ends after `stop_after` of them.
std::string told(Session& session, Words& words) {
  size_t count = 0, stop_after = 0;
  seqexport::Sampling sampling{};
  words >> count >> stop_after;
  const bool samples(words >> sampling.temperature >> sampling.top_k >> sampling.top_p >> sampling.seed);
  std::string pieces;
  session.generate_text(count, samples ? std::optional(sampling) : std::nullopt, [&](std::string_view text) {
    pieces += hex(text) + " ";
    return --stop_after != 0;
  });
  return pieces;
}

std::string position(const Session& session) {
  return std::to_string(*std::max_element(session.lengths(), session.lengths() + session.batch()));
}

// What another thread is told that steps into the session, and whether cancelling ends it.
std::string two_threads(Session& session) {
  std::string told;
  const bool whole = session.generate_batch(1 << 20, std::nullopt, [&](const int64_t*) {
    std::thread([&] {
      try {
        session.reset();
      } catch (const seqexport::Error& error) {
        told = std::to_string(error.status()) + " " + error.what();
      }
      session.cancel();
    }).join();
    return true;
  });
  return told + (whole ? "" : "; cancelled after " + position(session));
}

std::string thrown_through(Session& session) {
  try {
    session.generate(4, std::nullopt, [](int64_t) -> bool { throw std::runtime_error("the caller's own"); });
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

// Many sessions at once, each in a thread of its own, on one engine: whether all say the same.
std::string crowd(const Engine& engine) {
  std::vector<std::string> texts(8);
  std::vector<std::thread> threads;
  for (std::string& text : texts)
    threads.emplace_back([&] {
      Session session(engine, 1, 64);
      session.prefill({84, 104, 101, 32});
      Words words("12 0 1 40 0.9 3");
      text = generated(session, words);
    });
  for (std::thread& thread : threads) thread.join();
  const bool same = std::all_of(texts.begin(), texts.end(), [&](const std::string& text) { return text == texts[0]; });
  return same ? texts[0] : "they differ";
}

// Many sessions one after another, each opened, fed, forked and closed: what the last one says.
std::string many(const Engine& engine, size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    Session session(engine, 2, 64);
    session.keep(4, 1 << 20);
    session.prefill({84, 104, 101, 32, 84, 104, 101, 32});
    Words words("4 0 1 40 0.9 3");
    text = generated(session, words);
    Session other = session.fork();
    session.rewind(4);
  }
  return text;
}

std::string answer(const Engine& engine, std::optional<Session>& session, const std::string& line) {
  Words words(line);
  std::string verb, file;
  words >> verb;
  if (verb == "open") {
    const auto sizes = rest<size_t>(words);
    session = Session(engine, sizes.at(0), sizes.at(1));  // which leaves the one before where it throws
    return "";
  }
  if (verb == "restore") {
    size_t capacity = 0;
    words >> file >> capacity;
    session = Session::restore(engine, file, capacity);
    return position(*session);
  }
  if (verb == "crowd") return crowd(engine);
  if (verb == "many") return many(engine, rest<size_t>(words).at(0));
  if (verb == "save") return words >> file, session->save(file), "";
  if (verb == "prefill") return session->prefill(rest<int64_t>(words)), position(*session);
  if (verb == "ragged") {
    std::vector<int32_t> lens(session->batch());
    for (int32_t& each : lens) words >> each;
    return session->prefill(rest<int64_t>(words), lens), position(*session);
  }
  if (verb == "generate") return generated(*session, words);
  if (verb == "say") return words >> file, session->prefill_text(unhex(file)), position(*session);
  if (verb == "tell") return told(*session, words);
  if (verb == "fork") {
    Session other = session->fork();
    return generated(other, words);
  }
  if (verb == "keep") {
    const auto sizes = rest<size_t>(words);
    return session->keep(sizes.at(0), sizes.at(1)), "";
  }
  if (verb == "rewind") return std::to_string(session->rewind(rest<size_t>(words).at(0)));
  if (verb == "reset") return session->reset(), position(*session);
  if (verb == "threads") return two_threads(*session);
  if (verb == "throw") return thrown_through(*session);
  return "unknown";
}

}  // namespace

int main(int count, char** words) try {
  const Engine engine(seqexport::Bundle(words[1]), {1, count > 2 ? words[2] : ""});
  std::optional<Session> session;
  for (std::string line; std::getline(std::cin, line);) {
    try {
      std::cout << answer(engine, session, line) << std::endl;
    } catch (const seqexport::Error& error) {
      std::cout << "error " << error.status() << ": " << error.what() << std::endl;
    }
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
