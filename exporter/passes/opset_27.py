"""Target ``portable`` in opset 27: bodies of our ops with ONNX's own CausalConvWithState and LinearAttention in them.

1. A body gives all that the op defines. What those ops do not have stands around them: ragged rows, and all but the
   recurrence of a scan. Their arithmetic is float32, as the standard leaves open what they sum in.
2. An op that they do not cover, or not exactly, keeps its body.

Tracing goes up to opset 23; from there to 27 what ops had before did not change, and attributes that are new are as if
they were not there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx_ir as ir

from seqexport.exporter.passes import linear_attention
from seqexport.plugins.ops import Call
from seqexport.plugins.ops.causal_conv1d import JOINED, finished

OPSET = 27


def convolution(node: ir.Node, call: Call) -> list[str] | None:
    """None where the number of channels is not known."""
    weight = node.inputs[1]
    if weight is None or weight.shape is None or not isinstance(weight.shape[0], int):
        return None
    names = [name for name in ("x", "weight", "bias", "past") if name in call]
    bias = "bias_wide" if "bias" in call else '""'
    lines = [
        *(f"{name}_wide = Cast <to = 1> ({name})" for name in names),
        "x_channels = Transpose <perm = [0, 2, 1]> (x_wide)",
        "kernel_axis = Constant <value_ints = [1]> ()",
        "kernel = Unsqueeze (weight_wide, kernel_axis)",
        f'y_channels, left = CausalConvWithState <activation = "{call.attributes["activation"]}">'
        f" (x_channels, kernel, {bias}, past_wide)",
        "activated = Transpose <perm = [0, 2, 1]> (y_channels)",
    ]
    if "seq_lens" not in call:
        return [*lines, "y = CastLike (activated, x)", "present = CastLike (left, past)"]
    return [*lines, *JOINED, *finished(call)]  # 1: what it leaves ends with the padding


LOWERINGS: dict[str, Callable[[ir.Node, Call], list[str] | None]] = {
    "CausalConv1d": convolution,
    "SsdScan": partial(linear_attention.body, op="LinearAttention"),
}
