// Hashes of standard input by every form of SHA-256 that this processor has: FORM SIZE PART HASH, a line for the first SIZE
// bytes in parts of PART bytes.
//
//   hashing SIZE,PART... < FILE
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>

#include "sha256.h"

int main(int count, char** words) {
  const std::string content{std::istreambuf_iterator<char>(std::cin), {}};
  for (const seqexport::Sha256Form& form : seqexport::sha256_forms())
    for (int i = 1; i < count; ++i) {
      size_t size = 0, part = 0;
      if (std::sscanf(words[i], "%zu,%zu", &size, &part) != 2 || part == 0 || size > content.size()) return 2;
      seqexport::Sha256 digest(form);
      for (size_t start = 0; start < size; start += part)
        digest.update(content.data() + start, std::min(part, size - start));
      std::printf("%s %zu %zu %s\n", form.name, size, part, digest.hex().c_str());
    }
}
