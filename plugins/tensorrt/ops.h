// Every op, each described in the file of its name.
#pragma once

#include "op.h"

namespace seqexport::tensorrt {

const Op& causal_attention();
const Op& causal_conv1d();
const Op& embedding();
const Op& last_token();
const Op& linear();
const Op& rms_norm();
const Op& rotary_embedding();
const Op& selective_scan();

inline std::vector<const Op*> ops() {
  return {&causal_attention(), &causal_conv1d(), &embedding(),        &last_token(),
          &linear(),           &rms_norm(),      &rotary_embedding(), &selective_scan()};
}

}  // namespace seqexport::tensorrt
