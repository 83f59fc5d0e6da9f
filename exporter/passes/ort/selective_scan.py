"""SelectiveScan with every size but batch and length known.

1. What enters a state is masked: a step of size 0 leaves it as it is, and inputs of 0 do so even where a padded token
   is NaN, as ONNX Runtime's attention in float16 makes it.
2. A single token (decode) takes no Scan at all.
3. With one group, the state is [B,N,D], and no broadcast has more than three axes.
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.plugins.ops import Call
from seqexport.plugins.ops.selective_scan import TOKEN_SCAN, entering, gated


def body(node: ir.Node, call: Call) -> list[str] | None:
    """None where B and C have more groups than one, or run backwards."""
    B = node.inputs[3]
    if B is None or B.shape is None or B.shape[2] != 1 or "seq_lens" not in call or call.attributes["reverse_groups"]:
        return None
    N = B.shape[3]
    return [
        *entering(call),  # 1
        "dx = Mul (delta, x_valid)",
        "A_rows = Transpose <perm = [1, 0]> (A)",
        "past_rows = Transpose <perm = [0, 2, 1]> (past)",
        "C_wide = Cast <to = 1> (C)",
        "is_single = Equal (length, one)",
        "last, y_scan = If (is_single) <",
        f"  then_branch = single () => (last_s, y_s) {{ {_single(N)} }},",
        f"  else_branch = several () => (last_m, y_m) {{ {_several()} }}",
        ">",
        "present = Transpose <perm = [0, 2, 1]> (last)",
        *gated(call),
        "y = CastLike (y_wide, x)",
    ]


def _single(N: int | ir.SymbolicDimProtocol) -> str:  # 2
    return "\n".join(
        [
            "exponent_s = Mul (delta, A_rows)",
            "decay_s = Exp (exponent_s)",
            "kept_s = Mul (decay_s, past_rows)",
            f"column_s = Constant <value_ints = [0, {N}, 1]> ()",
            "B_column_s = Reshape (B_valid, column_s)",
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
            "B_columns = Transpose <perm = [1, 0, 3, 2]> (B_valid)",
            "C_rows = Transpose <perm = [1, 0, 2, 3]> (C_wide)",
            *TOKEN_SCAN,
            "last_m = Identity (last_rows)",
            "y_steps = Squeeze (y_rows, axis2_m)",
            "y_m = Transpose <perm = [1, 0, 2]> (y_steps)",
        ]
    )
