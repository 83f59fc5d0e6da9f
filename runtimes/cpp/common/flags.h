// Command lines of --flag=value, --flag value and plain words.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace seqexport {

struct Flag {
  const char* name;
  const char* value;  // what its value is called in the help; null if it takes none
  const char* help;
  std::function<void(const std::string&)> set;  // throws UserError, without the flag's name, for a bad value
};

// What every program here is asked.
struct CommandLine {
  std::filesystem::path bundle;
  bool help = false, version = false;
};

// --version and --help after a program's own.
std::vector<Flag> closed(std::vector<Flag> own, CommandLine& line, const char* version_help);

// Sets what `arguments` say; the one word that is no flag is the bundle. -o is --output. Throws UserError for what it does
// not know or understand, and for no bundle where neither --help nor --version is given.
void parse_flags(const std::string& program, const std::vector<Flag>& flags, const std::vector<std::string>& arguments,
                 CommandLine& line);

// A line for each.
std::string help_of(const std::vector<Flag>& flags);

std::vector<std::string> split(const std::string& text, char separator);

// Parses all of `text`, a number of at least `low`.
std::optional<int64_t> number(const std::string& text, int64_t low);

}  // namespace seqexport
