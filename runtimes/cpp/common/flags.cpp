#include "flags.h"

#include <charconv>

#include "error.h"

namespace seqexport {
namespace {

const Flag& flag_named(const std::string& program, const std::vector<Flag>& flags, const std::string& name) {
  for (const Flag& flag : flags)
    if (name == flag.name) return flag;
  throw UserError("unknown flag " + name + "; " + program + " --help lists them");
}

void set_flag(const Flag& flag, const std::string& value) {
  try {
    flag.set(value);
  } catch (const UserError& error) {
    throw UserError(flag.name + std::string(" ") + error.what());
  }
}

}  // namespace

std::vector<Flag> closed(std::vector<Flag> own, CommandLine& line, const char* version_help) {
  own.push_back({"--version", nullptr, version_help, [&line](const std::string&) { line.version = true; }});
  own.push_back({"--help", nullptr, "This text.", [&line](const std::string&) { line.help = true; }});
  return own;
}

void parse_flags(const std::string& program, const std::vector<Flag>& flags, const std::vector<std::string>& arguments,
                 CommandLine& line) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument.empty() || argument[0] != '-') {
      if (!line.bundle.empty())
        throw UserError(argument + ": one BUNDLE only, and " + line.bundle.string() + " is given");
      line.bundle = argument;
      continue;
    }
    const size_t equals = argument.find('=');
    std::string name = argument.substr(0, equals);
    if (name == "-o") name = "--output";
    const Flag& flag = flag_named(program, flags, name);
    if (!flag.value && equals != std::string::npos) throw UserError(name + " takes no value");
    if (!flag.value) {
      set_flag(flag, "");
    } else if (equals != std::string::npos) {
      set_flag(flag, argument.substr(equals + 1));
    } else if (++i < arguments.size()) {
      set_flag(flag, arguments[i]);
    } else {
      throw UserError(name + " needs a value: " + name + "=" + flag.value);
    }
  }
  if (line.bundle.empty() && !line.help && !line.version)
    throw UserError("no BUNDLE is given; " + program + " --help has examples");
}

std::string help_of(const std::vector<Flag>& flags) {
  std::string text;
  for (const Flag& flag : flags) {
    std::string left = std::string("  ") + flag.name + (flag.value ? std::string("=") + flag.value : "");
    text += left + (left.size() < 33 ? std::string(33 - left.size(), ' ') : " ") + flag.help + "\n";
  }
  return text;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text)
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

std::optional<int64_t> number(const std::string& text, int64_t low) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && value >= low ? std::optional(value) : std::nullopt;
}

}  // namespace seqexport
