// The file beside a plan that says what it is: runtimes/trt/record.py reads it before the plan is loaded.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "engine.h"
#include "tensorrt.h"

namespace seqexport {

// What the record says, as JSON. `plugins` is null where the engine has none of ours.
std::string record_text(const std::filesystem::path& plan, const std::string& plan_sha256, const Gpu& gpu,
                        const PluginLibrary* plugins, const Model& model, const Engine& engine, const Options& options);

// The name of the plan of which a file says what it is; none where it is no record.
std::optional<std::string> plan_of_record(const std::filesystem::path& file);

}  // namespace seqexport
