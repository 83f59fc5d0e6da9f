// seqexport-embedded-speed: what the library costs on top of a bare engine, as JSON. The GPU run compiles and reads it.
#include <cstdio>
#include <exception>

#include "error.h"
#include "flags.h"
#include "measures.h"
#include "timing.h"

namespace {

using seqexport::Flag;
using seqexport::UserError;

struct Options : seqexport::CommandLine {
  std::string plugins;
  size_t steps = 500, prompt = 2048, sessions = 1000;
};

std::vector<Flag> flags_of(Options& o) {
  const auto count = [](const char* name, const char* help, size_t& into) {
    return Flag{name, "N", help, [&into](const std::string& value) {
                  const auto given = seqexport::number(value, 1);
                  if (!given) throw UserError("'" + value + "': expected a whole number of at least 1");
                  into = size_t(*given);
                }};
  };
  return seqexport::closed(
      {{"--plugins", "FILE", "libseqexport_tensorrt.so [default: the one that was built].",
        [&o](const std::string& value) { o.plugins = value; }},
       count("--steps", "Tokens that are timed one by one [default: 500].", o.steps),
       count("--prompt", "Tokens that a restore is held against [default: 2048].", o.prompt),
       count("--sessions", "Opened and closed [default: 1000].", o.sessions)},
      o, "The version of seqexport.");
}

int run(const std::vector<std::string>& arguments) {
  Options options;
  const std::vector<Flag> flags = flags_of(options);
  parse_flags("seqexport-embedded-speed", flags, arguments, options);
  if (options.help || options.version) {
    std::printf("%s", options.help ? help_of(flags).c_str() : SEQEXPORT_VERSION "\n");
    return 0;
  }
  seqexport::EngineOptions given;
  given.plugins = options.plugins;
  const double start = seqexport::now();
  const seqexport::Measured of{
      std::make_shared<const seqexport::trt::TrtEngine>(seqexport::open_bundle(options.bundle), given), options.steps,
      options.prompt, options.sessions};
  const double open = seqexport::now() - start;
  nlohmann::ordered_json all = {{"runtime", of.engine->description()}, {"open", open}};
  all["decode"] = decode(of);
  all["switching"] = switching(of);
  all["disk"] = disk(of);
  all["flat"] = flat(of);
  std::printf("%s\n", all.dump().c_str());
  return 0;
}

}  // namespace

int main(int count, char** words) try {
  return run({words + 1, words + count});
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
