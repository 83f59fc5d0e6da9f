"""The ops as PyTorch functions: plain PyTorch on a CPU, our kernels on CUDA where they are built and take the call.

Each traces into a node of the domain ``seqexport``.
"""

from seqexport.plugins.ops.causal_attention import causal_attention
from seqexport.plugins.ops.causal_conv1d import causal_conv1d
from seqexport.plugins.ops.embedding import embedding
from seqexport.plugins.ops.experts import experts
from seqexport.plugins.ops.last_token import last_token
from seqexport.plugins.ops.linear import linear
from seqexport.plugins.ops.rms_norm import rms_norm
from seqexport.plugins.ops.rotary_embedding import rotary_embedding
from seqexport.plugins.ops.selective_scan import selective_scan
from seqexport.plugins.ops.ssd_scan import ssd_scan
from seqexport.plugins.ops.top_k_router import top_k_router

__all__ = [
    "causal_attention",
    "causal_conv1d",
    "embedding",
    "experts",
    "last_token",
    "linear",
    "rms_norm",
    "rotary_embedding",
    "selective_scan",
    "ssd_scan",
    "top_k_router",
]
