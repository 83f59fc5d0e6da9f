#include "publish.h"

#include <vector>

#include "error.h"
#include "files.h"
#include "record.h"

namespace seqexport {
namespace {

namespace fs = std::filesystem;

using RecordOf = std::function<std::string(const fs::path&)>;

void commit(PendingFile& file, const std::string& content) {
  file.write(content.data(), content.size());
  file.commit();
}

bool names(const fs::path& record, const fs::path& plan) {
  return fs::is_regular_file(record) && plan_of_record(record) == plan.filename().string();
}

fs::path with_hash(const fs::path& plan, const std::string& sha256) {
  return plan.parent_path() / (plan.stem().string() + "-" + sha256.substr(0, 12) + plan.extension().string());
}

fs::path name_meanwhile(const fs::path& plan) {
  return plan.parent_path() / ("." + plan.filename().string() + ".meanwhile");
}

void sweep(const fs::path& file) {
  std::error_code ignored;
  fs::remove(file, ignored);
}

// Of the plans under this name, those that the record does not name: replaced, or left by a build that was killed.
void remove_others(const fs::path& plan, const fs::path& kept) {
  const std::string stem = plan.stem().string(), extension = plan.extension().string();
  constexpr size_t kHash = sizeof "-0123456789ab" - 1;
  std::vector<fs::path> others;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::absolute(plan).parent_path())) {
    const std::string name = entry.path().filename().string();
    const bool ours = name.rfind(stem, 0) == 0 && entry.path().extension() == extension;
    const std::string hash = ours ? entry.path().stem().string().substr(stem.size()) : "other";
    const bool hashed = hash.size() == kHash && hash[0] == '-' &&
                        hash.find_first_not_of("0123456789abcdef", 1) == std::string::npos;
    if ((hash.empty() || hashed) && name != kept.filename().string()) others.push_back(entry.path());
  }
  for (const fs::path& other : others) sweep(other);
}

fs::path publish_in_bundle(const fs::path& plan, const nvinfer1::IHostMemory& content, const std::string& sha256,
                           const RecordOf& record_of) {
  PendingFile record(record_path(plan));
  const fs::path written = names(record_path(plan), plan) ? with_hash(plan, sha256) : plan;
  record.write(content.data(), content.size());
  try {
    record.name_too(written);
    commit(record, record_of(written));
  } catch (const UserError&) {
    sweep(written);
    throw;
  }
  remove_others(plan, written);
  return written;
}

void publish_as(const fs::path& plan, const nvinfer1::IHostMemory& content, const RecordOf& record_of) {
  PendingFile record(record_path(plan)), pending(plan, content.data(), content.size());
  const fs::path meanwhile = name_meanwhile(plan);
  const bool replaces = names(record_path(plan), plan);
  try {
    if (replaces) {
      pending.name_too(meanwhile);
      commit(record, record_of(meanwhile));
    }
    pending.commit();
    commit(record, record_of(plan));
  } catch (const UserError&) {
    pending.undo();
    record.undo();
    if (replaces) sweep(meanwhile);  // else the record may name it, after a build that was killed
    throw;
  }
  sweep(meanwhile);
}

}  // namespace

fs::path record_path(const fs::path& plan) { return fs::path(plan).replace_extension(".json"); }

fs::path publish(const fs::path& plan, const nvinfer1::IHostMemory& content, const std::string& sha256, bool keeps_name,
                 const RecordOf& record_of) {
  if (!keeps_name) return publish_in_bundle(plan, content, sha256, record_of);
  publish_as(plan, content, record_of);
  return plan;
}

}  // namespace seqexport
