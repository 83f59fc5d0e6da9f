// Put before the C library (LD_PRELOAD): what happens to a program, or to its files, at one moment of its work.
//
//   KILLED_IN, KILLED_AT     the program is killed at its n-th change of a name in this folder, before it is made
//   EXCHANGED, EXCHANGED_BY  the first time that a file of the first folder is opened to read, whose name ends with
//                            model.onnx, the two folders change places before
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>

namespace {

std::string variable(const char* name) {
  const char* value = getenv(name);
  return value ? value : "";
}

bool begins(const std::string& path, const std::string& folder) { return !folder.empty() && path.rfind(folder, 0) == 0; }

template <class Function>
Function* next(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

void change(const char* path) {
  static int changes = 0;
  if (begins(path, variable("KILLED_IN")) && ++changes == atoi(variable("KILLED_AT").c_str())) kill(getpid(), SIGKILL);
}

void reading(const char* path) {
  static bool exchanged = false;
  const std::string model = "/model.onnx", file = path, folder = variable("EXCHANGED");
  if (exchanged || folder.empty() || file != folder + model) return;
  exchanged = true;
  renameat2(AT_FDCWD, folder.c_str(), AT_FDCWD, variable("EXCHANGED_BY").c_str(), RENAME_EXCHANGE);
}

}  // namespace

extern "C" {

int rename(const char* from, const char* to) noexcept {
  change(to);
  return next(&rename, "rename")(from, to);
}

int link(const char* from, const char* to) noexcept {
  change(to);
  return next(&link, "link")(from, to);
}

int unlink(const char* path) noexcept {
  change(path);
  return next(&unlink, "unlink")(path);
}

int remove(const char* path) noexcept {
  change(path);
  return next(&remove, "remove")(path);
}

FILE* fopen(const char* path, const char* mode) {
  reading(path);
  return next(&fopen, "fopen")(path, mode);
}

FILE* fopen64(const char* path, const char* mode) {
  reading(path);
  return next(&fopen64, "fopen64")(path, mode);
}
}
