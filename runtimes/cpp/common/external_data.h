// The files that an ONNX graph's tensors lie in. runtimes/external_data.py and plugins/reading.py have the same rules.
#pragma once

#include <filesystem>
#include <set>
#include <string>

namespace seqexport {

// As the graph names them. A file that is no whole graph is read as far as it goes: the parser refuses it. Throws
// UserError if it cannot be read.
std::set<std::string> external_data(const std::filesystem::path& model);

// Whether the file that `folder` has under a relative name is the folder's own, links followed. Hugging Face's cache
// counts as inside: there snapshots/<revision>/<file> is a link to blobs/<hash>.
bool is_inside(const std::filesystem::path& folder, const std::string& name);

// Throws UserError where a file below `folder` leads out of it.
void check_own(const std::filesystem::path& folder, const std::filesystem::path& file);

// Throws UserError where a graph's tensors lie in a file outside of its folder: it would be read, whatever it holds.
void check_inside(const std::filesystem::path& model);

}  // namespace seqexport
