"""SelectiveScan with every size but batch and length known.

1. What enters a state is masked: a step of size 0 leaves it as it is, and inputs of 0 do so even where a padded token
   is NaN, as ONNX Runtime's attention in float16 makes it.
2. A single token (decode) takes no Scan at all.
3. With one group, the state is [B,N,D], and no broadcast has more than three axes.
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.plugins.ops import Call
from seqexport.plugins.ops.selective_scan import TOKEN_SCAN


def body(node: ir.Node, call: Call) -> list[str] | None:
    """None where B and C have more groups than one."""
    B = node.inputs[3]
    if B is None or B.shape is None or B.shape[2] != 1 or "seq_lens" not in call:
        return None
    N = B.shape[3]
    return [
        *_delta(call),
        "dx = Mul (delta, x_valid)",
        "A_rows = Transpose <perm = [1, 0]> (A)",
        "past_rows = Transpose <perm = [0, 2, 1]> (past)",
        "B_all = Cast <to = 1> (B)",
        "mask4_axis = Constant <value_ints = [3]> ()",
        "mask4 = Unsqueeze (mask, mask4_axis)",
        "B_wide = Where (mask4, B_all, zero_wide)",
        "C_wide = Cast <to = 1> (C)",
        "is_single = Equal (length, one)",
        "last, y_scan = If (is_single) <",
        f"  then_branch = single () => (last_s, y_s) {{ {_single(N)} }},",
        f"  else_branch = several () => (last_m, y_m) {{ {_several()} }}",
        ">",
        "present = Transpose <perm = [0, 2, 1]> (last)",
        *_output(call),
    ]


def _delta(call: Call) -> list[str]:
    return [
        "x_wide = Cast <to = 1> (x)",
        "dt_wide = Cast <to = 1> (dt)",
        "biased = Add (dt_wide, dt_bias)" if "dt_bias" in call else "biased = Identity (dt_wide)",
        "delta_all = Softplus (biased)" if call.attributes["dt_softplus"] else "delta_all = Identity (biased)",
        "zero = Constant <value_int = 0> ()",
        "one = Constant <value_int = 1> ()",
        "zero_wide = Constant <value_float = 0.0> ()",
        "length_ = Shape <start = 1, end = 2> (x)",
        "length = Squeeze (length_)",
        "times = Range (zero, length, one)",
        "valid = Cast <to = 7> (seq_lens)",
        "axis1 = Constant <value_ints = [1]> ()",
        "axis2 = Constant <value_ints = [2]> ()",
        "valid_column = Unsqueeze (valid, axis1)",
        "mask_flat = Less (times, valid_column)",
        "mask = Unsqueeze (mask_flat, axis2)",
        "delta = Where (mask, delta_all, zero_wide)",  # 1
        "x_valid = Where (mask, x_wide, zero_wide)",
    ]


def _single(N: int | ir.SymbolicDimProtocol) -> str:  # 2
    return "\n".join(
        [
            "exponent_s = Mul (delta, A_rows)",
            "decay_s = Exp (exponent_s)",
            "kept_s = Mul (decay_s, past_rows)",
            f"column_s = Constant <value_ints = [0, {N}, 1]> ()",
            "B_column_s = Reshape (B_wide, column_s)",
            "added_s = Mul (B_column_s, dx)",
            "last_s = Add (kept_s, added_s)",
            f"row_s = Constant <value_ints = [0, 1, {N}]> ()",
            "C_row_s = Reshape (C_wide, row_s)",
            "y_s = MatMul (C_row_s, last_s)",
        ]
    )


def _several() -> str:
    return "\n".join(
        [
            "axis2_m = Constant <value_ints = [2]> ()",
            "delta_steps = Transpose <perm = [1, 0, 2]> (delta)",
            "delta_rows = Unsqueeze (delta_steps, axis2_m)",
            "dx_steps = Transpose <perm = [1, 0, 2]> (dx)",
            "dx_rows = Unsqueeze (dx_steps, axis2_m)",
            "B_columns = Transpose <perm = [1, 0, 3, 2]> (B_wide)",
            "C_rows = Transpose <perm = [1, 0, 2, 3]> (C_wide)",
            *TOKEN_SCAN,
            "last_m = Identity (last_rows)",
            "y_steps = Squeeze (y_rows, axis2_m)",
            "y_m = Transpose <perm = [1, 0, 2]> (y_steps)",
        ]
    )


def _output(call: Call) -> list[str]:
    lines = ["skip = Mul (D, x_wide)", "y_skip = Add (y_scan, skip)"] if "D" in call else ["y_skip = Identity (y_scan)"]
    if "z" not in call:
        return [*lines, "y = CastLike (y_skip, x)"]
    return [
        *lines,
        "z_wide = Cast <to = 1> (z)",
        "z_gate = Sigmoid (z_wide)",
        "z_silu = Mul (z_wide, z_gate)",
        "y_wide = Mul (y_skip, z_silu)",
        "y = CastLike (y_wide, x)",
    ]
