"""CausalConv1d as CausalConvWithState: ONNX's own of opset 27, or com.microsoft's, which is the same.

Channels stand before tokens there, and the state that it leaves ends with the padding: where rows are ragged, ours is
gathered as in the function body. All of it is float32, as what it sums in is left open.
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.plugins.ops import Call
from seqexport.plugins.ops.causal_conv1d import JOINED, finished


def body(node: ir.Node, call: Call, *, op: str) -> list[str] | None:
    """``op`` is CausalConvWithState with its domain. None where the number of channels is not known."""
    weight = node.inputs[1]
    if weight is None or weight.shape is None or not isinstance(weight.shape[0], int):
        return None
    bias = "bias_wide" if "bias" in call else '""'
    lines = [
        *(f"{name}_wide = Cast <to = 1> ({name})" for name in ("x", "weight", "bias", "past") if name in call),
        "x_channels = Transpose <perm = [0, 2, 1]> (x_wide)",
        "kernel_axis = Constant <value_ints = [1]> ()",
        "kernel = Unsqueeze (weight_wide, kernel_axis)",
        f'y_channels, left = {op} <activation = "{call.attributes["activation"]}">'
        f" (x_channels, kernel, {bias}, past_wide)",
        "activated = Transpose <perm = [0, 2, 1]> (y_channels)",
    ]
    if "seq_lens" not in call:
        return [*lines, "y = CastLike (activated, x)", "present = CastLike (left, past)"]
    return [*lines, *JOINED, *finished(call)]
