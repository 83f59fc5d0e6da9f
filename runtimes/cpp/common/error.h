// The one kind of error that a user can cause.
#pragma once

#include <stdexcept>
#include <string>

namespace seqexport {

// what() is one line: the thing, what was expected, what came, what to do. The program prints it and exits with 2.
struct UserError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a call was given is not what it takes.
struct BadArgument : UserError {
  using UserError::UserError;
};

// There is no room for what was asked.
struct NoMemory : UserError {
  using UserError::UserError;
};

// A text of others, such as an error that names what a file holds, with U+FFFD for each character that a terminal would
// obey instead of showing it, but for those of `kept`.
std::string plain(const std::string& text, const std::string& kept = "");

}  // namespace seqexport
