// The graph's own precisions, kept by the engine.
#pragma once

#include <NvInfer.h>

namespace seqexport {

// From TensorRT 10 on networks are strongly typed and there is nothing to do. Before, float16 is only allowed as a
// whole: every layer is pinned to the type that it has in the graph, so that float32 islands (norms, scans) stay
// float32.
void keep_precisions(nvinfer1::INetworkDefinition& network, nvinfer1::IBuilderConfig& config);

}  // namespace seqexport
