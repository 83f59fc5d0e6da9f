// The command line.
#pragma once

#include <seqexport.hpp>

struct Options {
  std::string bundle;
  std::string session = "assistant.safetensors";
  seqexport::EngineOptions engine;
  seqexport::Sampling sampling{0.8, 40, 0.95, 0};
  bool samples = false;  // a flag of sampling was given
  size_t max_new_tokens = 256;
  size_t capacity = 0;  // all that the bundle allows
};

constexpr char kUsage[] =
    "Usage: assistant BUNDLE [flags]\n\n"
    "Goes on after each line of its input. Ctrl-D and Ctrl-C end it; the session is saved, and goes on at the next start.\n"
    "A line /reset begins anew.\n\n"
    "  --session=FILE        Where the session is saved and resumed [default: assistant.safetensors].\n"
    "  --plugins=FILE        The library of our ops [default: the one that 'seqexport plugins build' made].\n"
    "  --no-plugins          Computes the ops' function bodies instead.\n"
    "  --threads=N           Of the CPU [default: every core that it may use].\n"
    "  --capacity=N          Tokens that the session may have; fewer take less memory [default: all that the bundle allows].\n"
    "  --max-new-tokens=N    Of an answer [default: 256].\n"
    "  --temperature=T       0: always the likeliest token [default: 0.8].\n"
    "  --top-k=K             Choose among the K likeliest; 0: all [default: 40].\n"
    "  --top-p=P             Choose among the likeliest that reach P [default: 0.95].\n"
    "  --seed=N              The same seed gives the same text [default: 0].\n";

// Throws std::invalid_argument for what is not understood; no bundle where the usage is asked for.
Options parse(int count, char** words);
