// What the tools share: flags of the engine, numbers, and how a tool ends.
#pragma once

#include <string>
#include <vector>

#include "flags.h"
#include "seqexport.hpp"

namespace seqexport {

// --plugins, --no-plugins, --device and --threads.
std::vector<Flag> engine_flags(EngineOptions& options);

// A whole number of at least `low`. Throws UserError.
int64_t whole_number(const std::string& text, int64_t low);

// Prints what --help or --version asks for; false where neither is given.
bool tells(const std::string& program, const CommandLine& line, const std::string& help);

// Runs a tool with its arguments: an error is one line on stderr and exit code 2.
int run_tool(int count, char** words, int (*tool)(const std::vector<std::string>&));

}  // namespace seqexport
