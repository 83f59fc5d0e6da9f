"""CausalConv1d as a depthwise Conv over an image of one row, for which ONNX Runtime has a blocked kernel.

Channels stand last in our op, and ONNX Runtime folds the transposes around the Conv into its own reordering. Its
CausalConvWithState computes the same and was measured slower (exporter/benchmarks/conv_bodies.py).
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.plugins.ops import Call


def body(node: ir.Node, call: Call) -> list[str] | None:
    """None where the number of channels is not known."""
    weight = node.inputs[1]
    if weight is None or weight.shape is None or not isinstance(weight.shape[0], int):
        return None
    channels = weight.shape[0]
    bias = ", bias" if "bias" in call else ""
    return [
        "axis1 = Constant <value_ints = [1]> ()",
        "kernel_axes = Constant <value_ints = [1, 2]> ()",
        "past_rows = Transpose <perm = [0, 2, 1]> (past)",
        "xx = Concat <axis = 1> (past_rows, x)",
        "image_last = Unsqueeze (xx, axis1)",
        "image = Transpose <perm = [0, 3, 1, 2]> (image_last)",
        "kernel = Unsqueeze (weight, kernel_axes)",
        f"linear_image = Conv <group = {channels}> (image, kernel{bias})",
        "linear_last = Transpose <perm = [0, 2, 3, 1]> (linear_image)",
        "linear = Squeeze (linear_last, axis1)",
        *_activation(call),
        *_state(call),
        "present = Transpose <perm = [0, 2, 1]> (state)",
    ]


def _activation(call: Call) -> list[str]:
    if call.attributes["activation"] == "none":
        return ["y = Identity (linear)"]
    return ["gate = Sigmoid (linear)", "y = Mul (linear, gate)"]


def _state(call: Call) -> list[str]:
    """The K-1 inputs that end each row's valid tokens."""
    lines = [
        "zero = Constant <value_int = 0> ()",
        "one = Constant <value_int = 1> ()",
        "K_ = Shape <start = 1, end = 2> (weight)",
        "K = Squeeze (K_)",
        "K_less_1 = Sub (K, one)",
        "taps = Range (zero, K_less_1, one)",
    ]
    if "seq_lens" not in call:
        return [
            *lines,
            "L_ = Shape <start = 1, end = 2> (x)",
            "rows = Add (taps, L_)",
            "state = Gather <axis = 1> (xx, rows)",
        ]
    return [
        *lines,
        "valid = Cast <to = 7> (seq_lens)",
        "valid_column = Unsqueeze (valid, axis1)",
        "rows_ = Add (valid_column, taps)",
        "axis2 = Constant <value_ints = [2]> ()",
        "rows = Unsqueeze (rows_, axis2)",
        "state = GatherND <batch_dims = 1> (xx, rows)",
    ]
