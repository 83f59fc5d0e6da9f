"""SsdScan in standard ONNX ops: matrix products within chunks (Dao & Gu 2024, section 6), and a Scan over chunks.

1. What enters a state is masked: a step of size 0 leaves it as it is, and so pads a call to whole chunks.
2. Within a chunk, with i <= t: y[t] = h . C[t] decayed from the chunk's start + sum of dx[i] (B[i] . C[t]) decayed from
   i to t. The decay between two tokens is the exponential of the sum of what lies between them, never of a difference
   of sums from the chunk's start, which loses what is small beside them.
3. States stay as they are, [B,G,H/G*P,N], and tokens stand last in a chunk, where a call of one token moves nothing.
4. Sums over N are taken in parts, as one long sum rounds twice as much.
5. A product's zeros would carry an infinity or a NaN back to earlier tokens. So those are taken out of it, and what
   comes after one is made NaN.
"""

from __future__ import annotations

from seqexport.plugins.ops.op import Call
from seqexport.plugins.ops.ragged import TOKEN_MASK

CHUNK = 64
"""Tokens; measured with ONNX Runtime on a CPU."""

PARTS = 4
"""Of a sum over N, of up to 256."""

LEAST_EXPONENT = -200.0
"""Of one token's decay, which is 0 in float32 from -104 on; an infinity times a product's zeros would be NaN."""

LEAST_SUM = -69.0
"""Of a decay through several tokens, which is less than 2^-99 then: of less, products are subnormal, and some
processors take up to a hundred times as long for those."""

LEAST_A = -3e38
"""So that a padded token's step of 0 is one also where A is infinite."""


def body(call: Call, chunk: int = CHUNK) -> list[str]:
    return [
        *constants(),
        *delta(call),
        *entering(call),
        *_chunks(chunk),
        "present = Reshape (last, past_shape)",
        *finished(call),
    ]


def constants() -> list[str]:
    return [
        "zero = Constant <value_int = 0> ()",
        "one = Constant <value_int = 1> ()",
        "zero_wide = Constant <value_float = 0.0> ()",
        "rest = Constant <value_ints = [-1]> ()",
        "none = Constant <value_ints = [0]> ()",
        "unit = Constant <value_ints = [1]> ()",
        "axis2 = Constant <value_ints = [2]> ()",
        "axis3 = Constant <value_ints = [3]> ()",
        "batch = Shape <start = 0, end = 1> (x)",
        "L_ = Shape <start = 1, end = 2> (x)",
        "heads = Shape <start = 2, end = 3> (x)",
        "P = Shape <start = 3, end = 4> (x)",
        "G = Shape <start = 2, end = 3> (B)",
        "N = Shape <start = 3, end = 4> (B)",
        "past_shape = Shape (past)",
    ]


def delta(call: Call) -> list[str]:
    lines = [
        "dt_wide = Cast <to = 1> (dt)",
        "biased = Add (dt_wide, dt_bias)" if "dt_bias" in call else "biased = Identity (dt_wide)",
        "free = Softplus (biased)" if call.attributes["dt_softplus"] else "free = Identity (biased)",
    ]
    step = "free"
    for name, bound in (("dt_min", "Max"), ("dt_max", "Min")):
        if limit := call.attributes[name]:
            lines += [f"{name} = Constant <value_float = {limit!r}> ()", f"{bound}_step = {bound} ({step}, {name})"]
            step = f"{bound}_step"
    return [*lines, f"delta_all = Identity ({step})"]


def entering(call: Call) -> list[str]:  # 1
    """In float32: ``exponents`` [B,L,H], ``dx`` [B,L,H,P], ``B_valid`` and ``C_wide``; where rows are ragged also
    ``mask4`` [B,L,1,1]."""
    names = {"delta_all": "delta", "x_wide": "x_valid", "B_wide": "B_valid"}
    lines = ["x_wide = Cast <to = 1> (x)", "B_wide = Cast <to = 1> (B)", "C_wide = Cast <to = 1> (C)"]
    if "seq_lens" in call:
        lines += [
            "L = Squeeze (L_)",
            "times = Range (zero, L, one)",
            *TOKEN_MASK,
            "mask4 = Unsqueeze (mask, axis3)",
            "delta = Where (mask, delta_all, zero_wide)",
            "x_valid = Where (mask4, x_wide, zero_wide)",
            "B_valid = Where (mask4, B_wide, zero_wide)",
        ]
    else:
        lines += [f"{valid} = Identity ({every})" for every, valid in names.items()]
    return [
        *lines,
        "delta_column = Unsqueeze (delta, axis3)",
        "dx = Mul (delta_column, x_valid)",
        "delta_less_itself = Sub (delta, delta)",
        "is_no_step = IsNaN (delta_less_itself)",  # 5: dx tells of it
        "step = Where (is_no_step, zero_wide, delta)",
        f"least_A = Constant <value_float = {LEAST_A!r}> ()",
        "A_finite = Max (A, least_A)",
        f"least = Constant <value_float = {LEAST_EXPONENT!r}> ()",
        "exponents_free = Mul (step, A_finite)",
        "exponents = Max (exponents_free, least)",
        f"least_sum = Constant <value_float = {LEAST_SUM!r}> ()",
    ]


def _chunks(chunk: int) -> list[str]:
    return [
        f"most = Constant <value_ints = [{chunk}]> ()",
        "Q = Min (L_, most)",
        "Q_less_1 = Sub (Q, unit)",
        "L_up = Add (L_, Q_less_1)",
        "chunks = Div (L_up, Q)",
        "whole = Mul (chunks, Q)",
        "padding = Sub (whole, L_)",
        "pads = Concat <axis = 0> (none, padding)",
        *_cut("a", "exponents", "heads"),
        *_cut("dx", "dx", "heads, P"),
        *_cut("B", "B_valid", "G, N"),
        *_cut("C", "C_wide", "G, N"),
        "Q_scalar = Squeeze (Q)",
        "steps = Range (zero, Q_scalar, one)",
        "column = Unsqueeze (steps, unit)",
        "is_causal = LessOrEqual (column, steps)",
        "is_later = Less (column, steps)",
        "causal = Cast <to = 1> (is_causal)",
        "later = Cast <to = 1> (is_later)",
        "earlier = Transpose <perm = [1, 0]> (later)",
        "minus_causal = Neg (causal)",
        f"parts = Constant <value_ints = [{PARTS}]> ()",
        f"parts_less_1 = Constant <value_ints = [{PARTS - 1}]> ()",
        "N_up = Add (N, parts_less_1)",
        "n = Div (N_up, parts)",
        "n0 = Identity (none)",
        *(f"n{i + 1} = Add (n{i}, n)" for i in range(PARTS)),
        "R = Div (heads, G)",
        "row_shape = Concat <axis = 0> (batch, G, R, unit, Q)",
        "head_shape = Concat <axis = 0> (batch, G, R, P, Q)",
        "flat_shape = Concat <axis = 0> (batch, G, rest, Q)",
        "token_shape = Concat <axis = 0> (batch, heads, P, Q)",
        "state_shape = Concat <axis = 0> (batch, G, rest, N)",
        "state_heads_shape = Concat <axis = 0> (batch, G, R, P, N)",
        "past_groups = Reshape (past, state_shape)",
        "last, y_chunks = Scan <num_scan_inputs = 4, body = chunk (h, a_q, dx_q, b, c) => (h_next, y_q) {",
        *_chunk(),
        "}> (past_groups, a_chunks, dx_chunks, B_chunks, C_chunks)",
        "y_cut = Transpose <perm = [1, 0, 2, 3, 4]> (y_chunks)",
        "y_whole_shape = Concat <axis = 0> (batch, whole, heads, P)",
        "y_whole = Reshape (y_cut, y_whole_shape)",
        "y_scan = Slice (y_whole, none, L_, unit)",
    ]


def _cut(name: str, source: str, sizes: str) -> list[str]:
    """``<name>_chunks`` [chunks,B,Q,...] of a source [B,L,...]."""
    perm = [1, 0, 2, *range(3, 4 + sizes.count(","))]
    return [
        f"{name}_padded = Pad ({source}, pads, zero_wide, unit)",
        f"{name}_shape = Concat <axis = 0> (batch, chunks, Q, {sizes})",
        f"{name}_cut = Reshape ({name}_padded, {name}_shape)",
        f"{name}_chunks = Transpose <perm = {perm}> ({name}_cut)",
    ]


def _chunk() -> list[str]:
    """One chunk: h [B,G,H/G*P,N], a_q [B,Q,H], dx_q [B,Q,H,P], b and c [B,Q,G,N]; heads are [G,H/G], tokens [i,t]."""
    return [
        *DECAYS,
        "b_groups = Transpose <perm = [0, 2, 1, 3]> (b)",
        "c_groups = Transpose <perm = [0, 2, 3, 1]> (c)",
        *(f"c{i} = Slice (c_groups, n{i}, n{i + 1}, axis2)" for i in range(PARTS)),
        *_times_c("bc", "b_groups"),
        "bc_causal = Where (is_causal, bc, zero_wide)",
        "bc_heads = Unsqueeze (bc_causal, axis2)",
        "weights = Mul (between, bc_heads)",
        "dx_last = Transpose <perm = [0, 2, 3, 1]> (dx_q)",
        "dx_heads = Reshape (dx_last, head_shape)",
        *WITHIN,
        *_times_c("hc", "h"),
        "hc_heads = Reshape (hc, head_shape)",
        "y_before = Mul (hc_heads, from_start)",
        "y_heads = Add (y_within, y_before)",
        "y_last = Reshape (y_heads, token_shape)",
        "y_q = Transpose <perm = [0, 3, 1, 2]> (y_last)",
        *STATE,
    ]


DECAYS = [  # 2
    "a_heads = Transpose <perm = [0, 2, 1]> (a_q)",
    "a = Reshape (a_heads, row_shape)",
    "a_until = MatMul (a, causal)",
    "a_after = MatMul (a, earlier)",
    "a_below = Mul (a, later)",
    "a_between = MatMul (a_below, causal)",
    *(
        line
        for name, exponents in (("from_start", "a_until"), ("to_end", "a_after"), ("between", "a_between"))
        for line in (f"{exponents}_least = Max ({exponents}, least_sum)", f"{name} = Exp ({exponents}_least)")
    ),
]


def _times_c(name: str, rows: str) -> list[str]:  # 4
    """``<name>`` [B,G,rows,t] of rows [B,G,rows,N]."""
    parts = [f"{name}_{i}" for i in range(PARTS)]
    cuts = [f"{part}_rows = Slice ({rows}, n{i}, n{i + 1}, axis3)" for i, part in enumerate(parts)]
    products = [f"{part} = MatMul ({part}_rows, c{i})" for i, part in enumerate(parts)]
    return [*cuts, *products, f"{name} = Sum ({', '.join(parts)})"]


WITHIN = [  # 5: the square root of minus a count is NaN but where that is 0
    "dx_less_itself = Sub (dx_heads, dx_heads)",
    "is_not_finite = IsNaN (dx_less_itself)",
    "dx_finite = Where (is_not_finite, zero_wide, dx_heads)",
    "y_finite = MatMul (dx_finite, weights)",
    "not_finite = Cast <to = 1> (is_not_finite)",
    "minus_count = MatMul (not_finite, minus_causal)",
    "zero_or_nan = Sqrt (minus_count)",
    "y_within = Add (y_finite, zero_or_nan)",
]

STATE = [
    "dx_left = Mul (dx_heads, to_end)",
    "dx_flat = Reshape (dx_left, flat_shape)",
    "added = MatMul (dx_flat, b_groups)",
    "a_all = ReduceSum (a, rest)",
    "decay = Exp (a_all)",
    "h_heads = Reshape (h, state_heads_shape)",
    "kept_heads = Mul (decay, h_heads)",
    "kept = Reshape (kept_heads, state_shape)",
    "h_next = Add (kept, added)",
]


def finished(call: Call) -> list[str]:
    """y of ``y_scan``: the skip connection added, the gate applied, and padded tokens 0."""
    lines, y = [], "y_scan"
    if "D" in call:
        lines += ["D_column = Unsqueeze (D, unit)", "skip = Mul (D_column, x_wide)", "y_skip = Add (y_scan, skip)"]
        y = "y_skip"
    if "z" in call:
        lines += [
            "z_wide = Cast <to = 1> (z)",
            "z_gate = Sigmoid (z_wide)",
            "z_silu = Mul (z_wide, z_gate)",
            f"y_gated = Mul ({y}, z_silu)",
        ]
        y = "y_gated"
    if "seq_lens" in call:
        lines.append(f"y_valid = Where (mask4, {y}, zero_wide)")
        y = "y_valid"
    return [*lines, f"y = CastLike ({y}, x)"]
