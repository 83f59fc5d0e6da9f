// seqexport-bench: how long a bundle takes to read a prompt, and to go on by a token.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tool.h"

namespace {

using seqexport::Flag;

struct Options : seqexport::CommandLine {
  size_t input_length = 512, past_length = 0, batch = 1, iterations = 20;
  seqexport::EngineOptions engine;
  bool json = false;
};

// The flags in the order of the help.
std::vector<Flag> flags_of(Options& o) {
  const auto count = [](const char* name, const char* help, size_t& into, int64_t low) {
    return Flag{name, "N", help,
                [&into, low](const std::string& value) { into = size_t(seqexport::whole_number(value, low)); }};
  };
  std::vector<Flag> flags = {
      count("--inputLen", "Tokens of the prompt that is timed [default: 512].", o.input_length, 1),
      count("--pastLen", "Tokens that were read before it [default: 0].", o.past_length, 0),
      count("--batch", "Sequences [default: 1].", o.batch, 1),
      count("--iterations", "Of the prompt, and of a token after it; medians are told [default: 20].", o.iterations, 1),
  };
  for (const Flag& flag : seqexport::engine_flags(o.engine)) flags.push_back(flag);
  flags.push_back({"--json", nullptr, "Tell it as JSON.", [&o](const std::string&) { o.json = true; }});
  return seqexport::closed(std::move(flags), o, "The version of seqexport.");
}

std::string help_text() {
  Options unused;
  return "Usage: seqexport-bench BUNDLE [flags]\n\n"
         "Time a prompt and the tokens after it, every token chosen beforehand.\n\n"
         "Examples:\n"
         "  seqexport-bench my-mamba\n"
         "  seqexport-bench my-mamba --inputLen=1024 --threads=2 --plugins=libseqexport_ort.so --json\n\n"
         "Flags (--flag=value or --flag value):\n" +
         help_of(flags_of(unused));
}

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  seqexport::parse_flags("seqexport-bench", flags_of(options), arguments, options);
  return options;
}

// Some tokens for every sequence.
std::vector<int64_t> tokens_for(const Options& options, size_t length, int64_t vocab) {
  std::vector<int64_t> tokens(options.batch * length);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = int64_t(i * 7919) % vocab;
  return tokens;
}

template <class Work>
double milliseconds(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + ptrdiff_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

struct Times {
  double prompt, token;  // medians, in ms
};

// The first iteration of each is not counted: it takes memory that later ones have.
Times measure(const Options& options, const seqexport::Engine& engine, int64_t vocab) {
  const size_t read = options.past_length + options.input_length;
  seqexport::Session session(engine, options.batch, read + options.iterations + 1);
  const auto past = tokens_for(options, options.past_length, vocab);
  const auto prompt = tokens_for(options, options.input_length, vocab), token = tokens_for(options, 1, vocab);
  std::vector<double> prompts, tokens;
  for (size_t i = 0; i <= options.iterations; ++i) {
    session.reset();
    if (!past.empty()) session.prefill(past);
    prompts.push_back(milliseconds([&] { session.prefill(prompt); }));
  }
  for (size_t i = 0; i <= options.iterations; ++i)
    tokens.push_back(milliseconds([&] { session.prefill(token); }));
  prompts.erase(prompts.begin());
  tokens.erase(tokens.begin());
  return {median(prompts), median(tokens)};
}

void tell(const Options& options, const std::string& runtime, const Times& times) {
  const double a_second = 1000.0 * double(options.batch);
  const double prompt_rate = a_second * double(options.input_length) / times.prompt, token_rate = a_second / times.token;
  if (options.json) {
    const nlohmann::ordered_json all = {
        {"bundle", options.bundle.string()},  {"runtime", runtime},         {"input_length", options.input_length},
        {"past_length", options.past_length}, {"batch", options.batch},     {"iterations", options.iterations},
        {"prompt_ms", times.prompt},          {"token_ms", times.token},    {"prompt_tokens_per_s", prompt_rate},
        {"tokens_per_s", token_rate}};
    std::printf("%s\n", all.dump(2).c_str());
    return;
  }
  std::printf("%s\nbatch %zu: a prompt of %zu tokens after %zu in %.3g ms, %.0f tokens/s; a token in %.3g ms, %.0f "
              "tokens/s\n",
              runtime.c_str(), options.batch, options.input_length, options.past_length, times.prompt, prompt_rate,
              times.token, token_rate);
}

int run(const std::vector<std::string>& arguments) {
  const Options options = parse(arguments);
  if (seqexport::tells("seqexport-bench", options, help_text())) return 0;
  const seqexport::Bundle bundle(options.bundle.string());
  const seqexport::Engine engine(bundle, options.engine);
  tell(options, engine.description(), measure(options, engine, bundle.vocab_size()));
  return 0;
}

}  // namespace

int main(int count, char** words) { return seqexport::run_tool(count, words, run); }
