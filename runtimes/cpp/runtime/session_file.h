// A session as a file, the same from C++ and from Python; runtimes/session_file.py says what is in it.
#pragma once

#include <filesystem>

#include "manifest.h"
#include "snapshot.h"

namespace seqexport {

// The file appears whole or not at all. Throws UserError if it cannot be written, or the bundle does not say which weights
// it has.
void write_session(const std::filesystem::path& file, const Bundle& bundle, const Snapshot& snapshot);

// A session that was saved from the bundle, or from another of the same weights and dtype. Throws UserError if it cannot
// be read, is damaged or no session, or was saved from another model or in another dtype.
Snapshot read_session(const std::filesystem::path& file, const Bundle& bundle);

}  // namespace seqexport
