// What the programs here share: files to be read, and what must be true of a call that was refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>

#include "seqexport.h"

// libFuzzer's entry: one input.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace fuzz {

// Ends the program, which libFuzzer takes for a finding, unless `holds`.
void require(bool holds, const char* what);

// Requires a line that a terminal only shows.
void require_line(const std::string& text);

// A folder of this process in memory, removed when it ends.
const std::filesystem::path& folder();
void write(const std::filesystem::path& file, std::string_view content);

// Whether a call went well. Requires one of these states else, with one line that says why.
bool went_well(seqexport_status status, std::initializer_list<seqexport_status> refusals);

}  // namespace fuzz
