// seqexport-run: text or tokens from a bundle, as they come; a session saved and resumed.
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "error.h"
#include "tool.h"

namespace {

using seqexport::Flag;
using seqexport::UserError;

struct Options : seqexport::CommandLine {
  std::string prompt, save, resume;
  std::vector<int64_t> tokens;
  size_t max_new_tokens = 128;
  seqexport::EngineOptions engine;
  seqexport::Sampling sampling = {0, 0, 1, 0};
  bool samples = false;  // a flag of sampling was given
  bool text = false;     // and no tokens
  bool verbose = false;
};

uint64_t seed_from(const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const unsigned long long value = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || *end || errno || text[0] == '-') throw UserError("'" + text + "': expected 0 to 2^64 - 1");
  return value;
}

double real(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end || !std::isfinite(value)) throw UserError("'" + text + "': expected a number");
  return value;
}

std::vector<int64_t> tokens_from(const std::string& text) {
  std::vector<int64_t> tokens;
  for (const std::string& each : seqexport::split(text, ',')) tokens.push_back(seqexport::whole_number(each, 0));
  return tokens;
}

// The flags in the order of the help.
std::vector<Flag> flags_of(Options& o) {
  const auto sampling = [&o](Flag flag) {
    flag.set = [&o, set = flag.set](const std::string& value) {
      set(value);
      o.samples = true;
    };
    return flag;
  };
  std::vector<Flag> flags = {
      {"--prompt", "TEXT", "Print this and the text after it, where each token is a byte.",
       [&o](const std::string& v) { o.prompt = v, o.text = true; }},
      {"--text", nullptr, "Print text also after --tokens or --resume.", [&o](const std::string&) { o.text = true; }},
      {"--tokens", "IDS", "Go on after these, as in 84,104,101.", [&o](const std::string& v) { o.tokens = tokens_from(v); }},
      {"--max-new-tokens", "N", "Stop after so many [default: 128].",
       [&o](const std::string& v) { o.max_new_tokens = size_t(seqexport::whole_number(v, 1)); }},
      sampling({"--temperature", "T", "0: always the likeliest token [default: 0].",
                [&o](const std::string& v) { o.sampling.temperature = real(v); }}),
      sampling({"--top-k", "K", "Choose among the K likeliest; 0: all [default: 0].",
                [&o](const std::string& v) { o.sampling.top_k = seqexport::whole_number(v, 0); }}),
      sampling({"--top-p", "P", "Choose among the likeliest that reach P [default: 1].",
                [&o](const std::string& v) { o.sampling.top_p = real(v); }}),
      sampling({"--seed", "N", "The same seed gives the same tokens, as in Python [default: 0].",
                [&o](const std::string& v) { o.sampling.seed = seed_from(v); }}),
      {"--save", "FILE", "Write where it ended to this file; when interrupted too.",
       [&o](const std::string& v) { o.save = v; }},
      {"--resume", "FILE", "Go on where a session ended, saved here or in Python.",
       [&o](const std::string& v) { o.resume = v; }},
  };
  for (const Flag& flag : seqexport::engine_flags(o.engine)) flags.push_back(flag);
  flags.push_back({"--verbose", nullptr, "Say on stderr what runs it.", [&o](const std::string&) { o.verbose = true; }});
  return seqexport::closed(std::move(flags), o, "The version of seqexport.");
}

std::string help_text() {
  Options unused;
  return "Usage: seqexport-run BUNDLE [flags]\n\n"
         "Go on after a prompt, or where a session ended, and print text or tokens as they come.\n\n"
         "Examples:\n"
         "  seqexport-run my-mamba --prompt=\"The state of a\" --temperature=0.8 --seed=7 --save=talk.safetensors\n"
         "  seqexport-run my-mamba --resume=talk.safetensors --text --max-new-tokens=64\n"
         "  seqexport-run my-llama --tokens=$(seqexport tokens my-llama --prompt \"Hi\") | seqexport tokens my-llama --decode\n\n"
         "Flags (--flag=value or --flag value):\n" +
         help_of(flags_of(unused));
}

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  seqexport::parse_flags("seqexport-run", flags_of(options), arguments, options);
  if (options.help || options.version) return options;
  if (!options.tokens.empty() && !options.prompt.empty()) throw UserError("--tokens and --prompt: give one of them");
  if (options.tokens.empty() && options.prompt.empty() && options.resume.empty())
    throw UserError("nothing to go on after: give --prompt=TEXT, --tokens=IDS, or --resume=FILE");
  return options;
}

seqexport_session* running = nullptr;  // what an interrupt ends

void interrupt(int) { seqexport_session_cancel(running); }

// False: it was interrupted.
bool print_tokens(seqexport::Session& session, size_t count, const std::optional<seqexport::Sampling>& sampling) {
  const char* before = "";
  return session.generate(count, sampling, [&](int64_t token) {
    std::printf("%s%lld", before, static_cast<long long>(token));
    std::fflush(stdout);
    before = " ";
    return true;
  });
}

bool print_text(seqexport::Session& session, size_t count, const std::optional<seqexport::Sampling>& sampling) {
  return session.generate_text(count, sampling, [&](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    return true;
  });
}

int go_on(const Options& options) {
  const seqexport::Bundle bundle(options.bundle.string());
  if (options.text) bundle.check_text();
  const seqexport::Engine engine(bundle, options.engine);
  if (options.verbose) std::fprintf(stderr, "%s\n", engine.description().c_str());
  seqexport::Session session =
      options.resume.empty() ? seqexport::Session(engine) : seqexport::Session::restore(engine, options.resume);
  if (session.batch() != 1)
    throw UserError(options.resume + ": a session of " + std::to_string(session.batch()) + " sequences, expected one");
  if (!options.tokens.empty()) session.prefill(options.tokens);
  if (!options.prompt.empty()) session.prefill_text(options.prompt);
  std::printf("%s", options.prompt.c_str());

  running = session.get();
  std::signal(SIGINT, interrupt);
  std::signal(SIGTERM, interrupt);
  const auto sampling = options.samples ? std::optional(options.sampling) : std::nullopt;
  const bool whole = (options.text ? print_text : print_tokens)(session, options.max_new_tokens, sampling);
  std::printf("\n");
  if (!options.save.empty()) session.save(options.save);
  if (!whole) std::fprintf(stderr, "interrupted%s\n", options.save.empty() ? "" : "; the session is saved");
  return whole ? 0 : 130;
}

int run(const std::vector<std::string>& arguments) {
  const Options options = parse(arguments);
  return seqexport::tells("seqexport-run", options, help_text()) ? 0 : go_on(options);
}

}  // namespace

int main(int count, char** words) { return seqexport::run_tool(count, words, run); }
