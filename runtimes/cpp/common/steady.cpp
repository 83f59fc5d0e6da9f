#include "steady.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace seqexport {

HeldFolder::HeldFolder(std::filesystem::path path)
    : path_(std::move(path)), descriptor_(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {}

HeldFolder::~HeldFolder() {
  if (descriptor_ >= 0) close(descriptor_);
}

bool HeldFolder::is_replaced() const {
  struct stat held, there;
  if (descriptor_ < 0 || fstat(descriptor_, &held) || stat(path_.c_str(), &there)) return false;
  return held.st_ino != there.st_ino || held.st_dev != there.st_dev;
}

}  // namespace seqexport
