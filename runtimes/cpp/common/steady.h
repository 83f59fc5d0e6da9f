// Reading a folder that may be replaced meanwhile: all of the old one, or all of the new one. runtimes/steady.py does the
// same.
#pragma once

#include <filesystem>
#include <utility>

#include "error.h"

namespace seqexport {

// A folder under a name. While it is held, no other one gets its number.
class HeldFolder {
 public:
  explicit HeldFolder(std::filesystem::path path);
  HeldFolder(const HeldFolder&) = delete;
  HeldFolder& operator=(const HeldFolder&) = delete;
  ~HeldFolder();

  // Whether another folder has its name now.
  bool is_replaced() const;

 private:
  std::filesystem::path path_;
  int descriptor_;  // -1 where there is no folder
};

// What `read` gives, or the UserError that it throws; it reads again where another folder came under the name meanwhile.
template <class Read>
auto steady(const std::filesystem::path& folder, const Read& read) -> decltype(read()) {
  while (true) {
    const HeldFolder held(folder);
    try {
      auto given = read();
      if (!held.is_replaced()) return given;
    } catch (const UserError&) {
      if (!held.is_replaced()) throw;
    }
  }
}

}  // namespace seqexport
