"""The ops of the domain ``seqexport``. Importing this registers them as ``torch.ops.seqexport.<stem>``.

Needs torch; runtimes never import it.
"""

from seqexport.plugins.ops import (
    causal_attention,
    causal_conv1d,
    embedding,
    last_token,
    linear,
    rms_norm,
    rotary_embedding,
    selective_scan,
)
from seqexport.plugins.ops.op import DOMAIN, VERSION, Call, Op, register

_MODULES = (
    causal_attention,
    causal_conv1d,
    embedding,
    last_token,
    linear,
    rms_norm,
    rotary_embedding,
    selective_scan,
)
OPS: dict[str, Op] = {module.OP.name: module.OP for module in _MODULES}

for _op in OPS.values():
    register(_op)

__all__ = ["DOMAIN", "OPS", "VERSION", "Call", "Op"]
