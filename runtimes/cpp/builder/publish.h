// A plan and its record, written so that whoever reads the record finds the plan that it is of. runtimes/trt/record.py
// does the same.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "tensorrt.h"

namespace seqexport {

std::filesystem::path record_path(const std::filesystem::path& plan);

// Writes a plan, and the record that `record_of` gives for the plan's path; gives that path. A plan that replaces the
// one that its record names
//   has a part of its sha256 in its name, unless `keeps_name`: the record, which comes last, names the other until then;
//   else has another name first, which the record gives meanwhile.
// Throws UserError where one cannot be written; what was there is as it was.
std::filesystem::path publish(const std::filesystem::path& plan, const nvinfer1::IHostMemory& content,
                              const std::string& sha256, bool keeps_name,
                              const std::function<std::string(const std::filesystem::path&)>& record_of);

}  // namespace seqexport
