// The likeliest token of each row of float32 logits on standard input, a line each; -1 where they are not all finite.
//
//   choosing VOCAB < LOGITS
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "sampling.h"

int main(int, char** words) {
  std::vector<float> logits(std::strtoul(words[1], nullptr, 10));
  seqexport::Chooser chooser;
  seqexport::Generator generator = seqexport::Generator::seeded(0);
  while (std::fread(logits.data(), sizeof(float), logits.size(), stdin) == logits.size()) {
    const bool finite = seqexport::all_finite(logits.data(), logits.size());
    const int64_t token = finite ? chooser.choose({}, logits.data(), logits.size(), generator) : -1;
    std::printf("%lld\n", static_cast<long long>(token));
  }
}
