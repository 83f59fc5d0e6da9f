"""SelectiveScan: the recurrence of Mamba-1 (Gu & Dao 2023, "Mamba", eq. 2, discretised as in section 3.6).

    delta = softplus(dt + dt_bias)
    h[t]  = exp(delta[t] * A) * h[t-1] + delta[t] * B[t] * x[t]
    y[t]  = (C[t] . h[t] + D * x[t]) * silu(z[t])

Symbols: B batch, L tokens in this call, D channels, N states of a channel, G groups that share B and C.

    x        T[B,L,D]
    dt       T[B,L,D]      step size before bias and softplus
    A        F[D,N]        negative
    B, C     T[B,L,G,N]    channel d reads group floor(d * G / D)
    D        F[D], optional
    z        T[B,L,D], optional
    dt_bias  F[D], optional
    past     F[B,D,N]
    seq_lens int32[B], optional: valid tokens of each sequence; later ones give 0 and leave the state as it is
    y        T[B,L,D]
    present  F[B,D,N]

The last ``reverse_groups`` of the groups run backwards: their channels start from ``past`` at the last valid token, and
``present`` is their state after the first. Vision models scan a map in several orders and back (VMamba, Liu 2024).

T is float32, float16 or bfloat16; F is float32, and so is all arithmetic.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seqexport.plugins.errors import UserError
from seqexport.plugins.ops.op import Call, Op
from seqexport.plugins.ops.ragged import TOKEN_MASK, accumulation_dtype, token_mask

CHUNK, ROOM = 32, 1 << 17
"""Tokens whose decays and inputs the reference computes at a time: in PyTorch a call costs more than a token's work.
Fewer where they have more than ``ROOM`` states, which would leave the cache between two calls."""


def reference(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, past: Tensor, seq_lens: Tensor | None, dt_softplus: int = 0, reverse_groups: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, L, channels = x.shape
    wide = accumulation_dtype(past)
    valid = None if seq_lens is None else token_mask(seq_lens, L)[..., None]
    values, delta, B_tokens, C_tokens = (each.to(wide).contiguous() for each in (x, dt, B, C))  # views may be slow
    delta = delta if dt_bias is None else delta + dt_bias
    delta = F.softplus(delta) if dt_softplus else delta
    entering, B_tokens = (_zero_where_padded(each, valid) for each in (delta * values, B_tokens))
    back = max(B.shape[2] - reverse_groups, 0)
    first = -(-back * channels // B.shape[2])
    delta, entering = _turned(delta, first), _turned(entering, first)
    B_tokens, C_tokens = _turned(B_tokens, back), _turned(C_tokens, back)
    scanned = valid if valid is None or first >= channels else _turned(valid.expand(-1, -1, channels), first)
    if channels % B.shape[2]:  # groups of two sizes: each channel becomes one
        group = torch.arange(channels, device=x.device) * B.shape[2] // channels
        B_tokens, C_tokens = B_tokens[:, :, group], C_tokens[:, :, group]
    groups, N = B_tokens.shape[2:]
    entering = entering.view(batch, L, groups, channels // groups, 1)
    h, outputs, tokens = past.to(wide), [], min(CHUNK, ROOM // max(batch * channels * N, 1)) or 1
    for start in range(0, L, tokens):
        now = slice(start, start + tokens)
        decay = (delta[:, now, :, None] * A.to(wide)).exp_()
        decay = decay if scanned is None else decay.masked_fill_(~scanned[:, now, :, None], 1)
        states = entering[:, now] * B_tokens[:, now, :, None]  # [B,T,G,D/G,N]
        for kept, state in zip(decay.unbind(1), states.flatten(2, 3).unbind(1), strict=True):
            h = state.addcmul_(kept, h)
        outputs.append((states @ C_tokens[:, now, :, :, None]).view(batch, -1, channels))
    y = _turned(torch.cat(outputs, dim=1), first)
    y = y if D is None else y + D * values
    y = y if z is None else y * F.silu(z.to(wide))
    y = y if valid is None else torch.where(valid, y, 0)
    return y.to(x.dtype), h.clone()


def _turned(each: Tensor, first: int) -> Tensor:
    """Of [B,L,channels or groups,...], those from ``first`` on with their tokens backwards. Padded tokens come first
    then, and change nothing there either."""
    return each if first >= each.shape[2] else torch.cat([each[:, :, :first], each[:, :, first:].flip(1)], 2)


def _zero_where_padded(each: Tensor, valid: Tensor | None) -> Tensor:
    """Of [B,L,...]; valid [B,L,1]."""
    return each if valid is None else each.masked_fill(~valid.view(*valid.shape[:2], *[1] * (each.dim() - 2)), 0)


def fake(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, past: Tensor, seq_lens: Tensor | None, dt_softplus: int = 0, reverse_groups: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(x), torch.empty_like(past)


END = 1 << 62
"""Past the last element of any axis."""

TOKEN_SCAN = [
    "last_rows, y_rows = Scan <num_scan_inputs = 4, body = token (h, step, step_x, b, c) => (h_next, out) {",
    "  exponent = Mul (step, A_rows)",
    "  decay = Exp (exponent)",
    "  kept = Mul (decay, h)",
    "  added = Mul (b, step_x)",
    "  h_next = Add (kept, added)",
    "  out = MatMul (c, h_next)",
    "}> (past_rows, delta_rows, dx_rows, B_columns, C_rows)",
]
"""The recurrence, one step a token, on states whose last axis is the channels'."""


def body(call: Call) -> list[str]:
    """One Scan step a token, on a state laid out [B,G,N,D/G] so that every broadcast runs along channels."""
    turn = _turn if call.attributes["reverse_groups"] else _leave
    return [
        *entering(call),
        "dx = Mul (delta, x_valid)",
        "G = Shape <start = 2, end = 3> (B)",
        "N = Shape <start = 3, end = 4> (B)",
        "token_shape_ = Shape <start = 0, end = 3> (B)",
        "rest = Constant <value_ints = [-1]> ()",
        "unit = Constant <value_ints = [1]> ()",
        *_turning(call),
        "batch = Shape <start = 0, end = 1> (x)",
        "L_ = Shape <start = 1, end = 2> (x)",
        "row_shape = Concat <axis = 0> (L_, batch, G, unit, rest)",
        "delta_steps = Transpose <perm = [1, 0, 2]> (delta)",
        "delta_forth = Reshape (delta_steps, row_shape)",
        *turn("delta_forth", "delta_rows"),
        "dx_steps = Transpose <perm = [1, 0, 2]> (dx)",
        "dx_forth = Reshape (dx_steps, row_shape)",
        *turn("dx_forth", "dx_rows"),
        "B_steps = Transpose <perm = [1, 0, 2, 3]> (B_valid)",
        "B_forth = Unsqueeze (B_steps, rest)",
        *turn("B_forth", "B_columns"),
        "C_wide = Cast <to = 1> (C)",
        "C_steps = Transpose <perm = [1, 0, 2, 3]> (C_wide)",
        "before_last = Constant <value_ints = [-2]> ()",
        "C_forth = Unsqueeze (C_steps, before_last)",
        *turn("C_forth", "C_rows"),
        "A_shape = Concat <axis = 0> (G, rest, N)",
        "A_groups = Reshape (A, A_shape)",
        "A_rows = Transpose <perm = [0, 2, 1]> (A_groups)",
        "state_shape = Concat <axis = 0> (batch, G, rest, N)",
        "past_groups = Reshape (past, state_shape)",
        "past_rows = Transpose <perm = [0, 1, 3, 2]> (past_groups)",
        *TOKEN_SCAN,
        "past_shape = Shape (past)",
        "last_groups = Transpose <perm = [0, 1, 3, 2]> (last_rows)",
        "present = Reshape (last_groups, past_shape)",
        "y_shape = Concat <axis = 0> (L_, batch, rest)",
        *turn("y_rows", "y_forth"),
        "y_steps = Reshape (y_forth, y_shape)",
        "y_scan = Transpose <perm = [1, 0, 2]> (y_steps)",
        *gated(call),
        *_masked(call),
    ]


def _leave(given: str, made: str) -> list[str]:
    return [f"{made} = Identity ({given})"]


def _turn(given: str, made: str) -> list[str]:
    """Of rows [L,B,G,...], the last groups with their tokens backwards: padded ones first, which change nothing."""
    return [
        f"{made}_kept = Slice ({given}, start, turned_from, group_axis)",
        f"{made}_last = Slice ({given}, turned_from, end, group_axis)",
        f"{made}_turned = Slice ({made}_last, rest, before_start, start, rest)",
        f"{made} = Concat <axis = 2> ({made}_kept, {made}_turned)",
    ]


def _turning(call: Call) -> list[str]:
    """The bounds that ``_turn`` cuts at."""
    last = int(call.attributes["reverse_groups"])
    bounds = {"group_axis": 2, "start": 0, "turned_from": -last, "end": END, "before_start": -END}
    return [f"{name} = Constant <value_ints = [{bound}]> ()" for name, bound in bounds.items()] if last else []


def entering(call: Call) -> list[str]:
    """What enters a state, in float32: ``delta``, ``x_valid`` and ``B_valid``. All are 0 at padded tokens (False in
    ``mask`` [B,L,1]), which so leave the state as it is even where they hold NaN."""
    lines = [
        "x_wide = Cast <to = 1> (x)",
        "dt_wide = Cast <to = 1> (dt)",
        "B_wide = Cast <to = 1> (B)",
        "biased = Add (dt_wide, dt_bias)" if "dt_bias" in call else "biased = Identity (dt_wide)",
        "delta_all = Softplus (biased)" if call.attributes["dt_softplus"] else "delta_all = Identity (biased)",
    ]
    if "seq_lens" not in call:
        return [*lines, "delta = Identity (delta_all)", "x_valid = Identity (x_wide)", "B_valid = Identity (B_wide)"]
    return [
        *lines,
        "zero = Constant <value_int = 0> ()",
        "one = Constant <value_int = 1> ()",
        "zero_wide = Constant <value_float = 0.0> ()",
        "length_ = Shape <start = 1, end = 2> (x)",
        "length = Squeeze (length_)",
        "times = Range (zero, length, one)",
        *TOKEN_MASK,
        "delta = Where (mask, delta_all, zero_wide)",
        "x_valid = Where (mask, x_wide, zero_wide)",
        "mask4_axis = Constant <value_ints = [3]> ()",
        "mask4 = Unsqueeze (mask, mask4_axis)",
        "B_valid = Where (mask4, B_wide, zero_wide)",
    ]


def gated(call: Call) -> list[str]:
    """``y_wide`` of ``y_scan``: the skip connection added, and the gate applied."""
    lines = ["skip = Mul (D, x_wide)", "y_skip = Add (y_scan, skip)"] if "D" in call else ["y_skip = Identity (y_scan)"]
    if "z" not in call:
        return [*lines, "y_wide = Identity (y_skip)"]
    return [
        *lines,
        "z_wide = Cast <to = 1> (z)",
        "z_gate = Sigmoid (z_wide)",
        "z_silu = Mul (z_wide, z_gate)",
        "y_wide = Mul (y_skip, z_silu)",
    ]


def _masked(call: Call) -> list[str]:
    if "seq_lens" not in call:
        return ["y = CastLike (y_wide, x)"]
    return ["y_valid = Where (mask, y_wide, zero_wide)", "y = CastLike (y_valid, x)"]


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    dt_bias: Tensor | None = None, past: Tensor | None = None, seq_lens: Tensor | None = None, *,
    dt_softplus: bool = False, reverse_groups: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The selective scan of Mamba-1 (Gu & Dao 2023): ``h = exp(dt * A) * h + dt * B * x``, ``y = C . h + D * x``.

    Args:
        x, dt: T[B,L,D], float32, float16 or bfloat16.
        A: float32[D,N], negative.
        B, C: T[B,L,G,N]; channel d reads group ``floor(d * G / D)``.
        D: float32[D].
        z: T[B,L,D], gates y by ``silu(z)``.
        dt_bias: float32[D], added to dt.
        past: float32[B,D,N], the state before this call; None: zeros.
        seq_lens: int32[B], valid tokens of each sequence; later ones give 0 and leave the state as it is. None: all L.
        dt_softplus: pass ``dt + dt_bias`` through softplus.
        reverse_groups: so many of the groups, the last ones (all where there are fewer), run from the last valid token
            to the first.

    Returns:
        y T[B,L,D], and the state after the call, float32[B,D,N].

    Raises:
        UserError: ``reverse_groups`` is negative.
    """
    if reverse_groups < 0:
        raise UserError(f"`reverse_groups` must be 0 or more, got {reverse_groups}")
    if past is None:
        past = A.new_zeros(x.shape[0], *A.shape)
    y, present = torch.ops.seqexport.selective_scan(
        x, dt, A, B, C, D, z, dt_bias, past, seq_lens, int(dt_softplus), reverse_groups
    )
    return y, present


OP = Op(
    name="SelectiveScan",
    stem="selective_scan",
    inputs={
        "x": "T",
        "dt": "T",
        "A": "F",
        "B": "T",
        "C": "T",
        "D?": "F",
        "z?": "T",
        "dt_bias?": "F",
        "past": "F",
        "seq_lens?": "I",
    },
    outputs={"y": "T", "present": "F"},
    attributes={"dt_softplus": 0, "reverse_groups": 0},
    windows={**dict.fromkeys(("x", "dt", "z"), ("D",)), **dict.fromkeys(("B", "C"), ("G", "N"))},
    reference=reference,
    fake=fake,
    body=body,
)
