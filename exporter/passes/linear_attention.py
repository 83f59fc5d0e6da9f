"""SsdScan as LinearAttention, its update rule ``gated``: ONNX's own of opset 27, or com.microsoft's, which is the same.

C is its query and B its key, of every head its own; what enters the state is its value. Its state is [B,H,N,P], ours
[B,H,P,N]. All of it is float32, and token by token, so that what comes later reaches nothing. ONNX Runtime's own was
measured faster than the function body at every length, transposes included (exporter/benchmarks/ssd_bodies.py).
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.plugins.ops import Call
from seqexport.plugins.ops.ssd_scan_body import constants, delta, entering, finished

MOST_STATES = 128
"""ONNX Runtime's com.microsoft sums over N in one go, and rounds too often beyond. Other kernels may do so too."""


def body(node: ir.Node, call: Call, *, op: str) -> list[str] | None:
    """``op`` is LinearAttention with its domain.

    None where the number of heads is not known, or that of states is not or too large.
    """
    x, B = node.inputs[0], node.inputs[3]
    if x is None or x.shape is None or B is None or B.shape is None:
        return None
    heads, N = x.shape[2], B.shape[3]
    if not isinstance(heads, int) or not isinstance(N, int) or N > MOST_STATES:
        return None
    return [
        *constants(),
        *delta(call),
        *entering(call),
        "R = Div (heads, G)",
        "every_head = Concat <axis = 0> (batch, L_, G, R, N)",
        "flat = Constant <value_ints = [0, 0, -1]> ()",
        "B_groups = Unsqueeze (B_valid, axis3)",
        "B_heads = Expand (B_groups, every_head)",
        "key = Reshape (B_heads, flat)",
        "C_groups = Unsqueeze (C_wide, axis3)",
        "C_heads = Expand (C_groups, every_head)",
        "query = Reshape (C_heads, flat)",
        "value = Reshape (dx, flat)",
        "past_rows = Transpose <perm = [0, 1, 3, 2]> (past)",
        f'y_flat, last = {op} <update_rule = "gated", scale = 1.0, q_num_heads = {heads},'
        f" kv_num_heads = {heads}> (query, key, value, past_rows, exponents)",
        "present = Transpose <perm = [0, 1, 3, 2]> (last)",
        "x_shape = Shape (x)",
        "y_scan = Reshape (y_flat, x_shape)",
        *finished(call),
    ]
