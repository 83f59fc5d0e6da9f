// A token for each row of float32 logits on standard input, a line each, the likeliest unless it is told how to draw; -1
// where they are not all finite.
//
//   choosing VOCAB [TEMPERATURE TOP_K TOP_P SEED] < LOGITS
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "sampling.h"

int main(int count, char** words) {
  std::vector<float> logits(std::strtoul(words[1], nullptr, 10));
  seqexport::Chooser chooser;
  seqexport::Sampling sampling;
  if (count > 2) {
    sampling.temperature = std::strtod(words[2], nullptr);
    sampling.top_k = std::strtol(words[3], nullptr, 10);
    sampling.top_p = std::strtod(words[4], nullptr);
    sampling.seed = std::strtoull(words[5], nullptr, 10);
  }
  seqexport::Generator generator = seqexport::Generator::seeded(sampling.seed);
  while (std::fread(logits.data(), sizeof(float), logits.size(), stdin) == logits.size()) {
    const bool finite = seqexport::all_finite(logits.data(), logits.size());
    const int64_t token = finite ? chooser.choose(sampling, logits.data(), logits.size(), generator) : -1;
    std::printf("%lld\n", static_cast<long long>(token));
  }
}
