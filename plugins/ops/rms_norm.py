"""RmsNorm: a sum with the residual stream, and its root mean square norm (Zhang & Sennrich 2019, eq. 4), with a gate.

    s = x * silu(z) + residual;   y = s / sqrt(mean(s^2) + epsilon) * weight

Symbols: B batch, L tokens in this call, D channels, in ``groups`` of neighbours, over each of which a mean is.

    x        T[B,L,D]
    weight   T[D]
    residual S[B,L,D], optional: nothing is added without it
    z        T[B,L,D], optional: the gate, 1 without it; Mamba-2 norms what its scan gives so (Dao & Gu 2024, figure 6)
    y        T[B,L,D]
    sum      S[B,L,D]      s, what the next residual is

With ``norm_before_gate`` silu(z) multiplies y instead of x. T is float32, float16 or bfloat16. S is float32 if ``wide``
is 1, else T. Arithmetic is float32, and s is not rounded before it is normalised; transformers rounds it to T first,
and y before it is multiplied by the weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seqexport.plugins.ops.op import Call, Op
from seqexport.plugins.ops.ragged import accumulation_dtype


def reference(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    z: Tensor | None,
    epsilon: float = 1e-6,
    groups: int = 1,
    norm_before_gate: int = 0,
    wide: int = 0,
) -> tuple[Tensor, Tensor]:
    s = x.to(accumulation_dtype(x))
    gate = None if z is None else F.silu(z.to(s.dtype))
    s = s if gate is None or norm_before_gate else s * gate
    s = s if residual is None else s + residual
    grouped = s.unflatten(-1, (groups, -1))
    y = (grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + epsilon)).flatten(-2) * weight
    y = y * gate if gate is not None and norm_before_gate else y
    return y.to(x.dtype), s.to(stream_dtype(x, wide), copy=True)


def stream_dtype(x: Tensor, wide: int) -> torch.dtype:
    """S, if T is the type of x."""
    return accumulation_dtype(x) if wide else x.dtype


def fake(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    z: Tensor | None,
    epsilon: float = 1e-6,
    groups: int = 1,
    norm_before_gate: int = 0,
    wide: int = 0,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=stream_dtype(x, wide))


def body(call: Call) -> list[str]:
    gate = ["z_wide = Cast <to = 1> (z)", "z_sigmoid = Sigmoid (z_wide)", "gate = Mul (z_wide, z_sigmoid)"]
    gate_at = call.attributes["norm_before_gate"] if "z" in call else None
    return [
        "x_wide = Cast <to = 1> (x)",
        *(gate if gate_at is not None else []),
        "gated = Mul (x_wide, gate)" if gate_at == 0 else "gated = Identity (x_wide)",
        *_sum(call),
        "sum = Identity (s)" if call.attributes["wide"] == 1 else "sum = CastLike (s, x)",
        f"in_groups = Constant <value_ints = [0, 0, {call.attributes['groups']}, -1]> ()",
        "grouped = Reshape (s, in_groups)",
        "squares = Mul (grouped, grouped)",
        "last = Constant <value_ints = [-1]> ()",
        "mean = ReduceMean (squares, last)",
        f"epsilon = Constant <value_float = {call.attributes['epsilon']!r}> ()",
        "shifted = Add (mean, epsilon)",
        "root = Sqrt (shifted)",
        "grouped_unit = Div (grouped, root)",
        "token = Constant <value_ints = [0, 0, -1]> ()",
        "unit = Reshape (grouped_unit, token)",
        "weight_wide = Cast <to = 1> (weight)",
        "scaled = Mul (unit, weight_wide)",
        "y_wide = Mul (scaled, gate)" if gate_at == 1 else "y_wide = Identity (scaled)",
        "y = CastLike (y_wide, x)",
    ]


def _sum(call: Call) -> list[str]:
    if "residual" not in call:
        return ["s = Identity (gated)"]
    return ["residual_wide = Cast <to = 1> (residual)", "s = Add (gated, residual_wide)"]


def rms_norm(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None = None,
    z: Tensor | None = None,
    *,
    epsilon: float = 1e-6,
    groups: int = 1,
    norm_before_gate: bool = False,
    wide: bool = False,
) -> tuple[Tensor, Tensor]:
    """A sum with the residual stream, and its root mean square norm (Zhang & Sennrich 2019, eq. 4), with a gate.

    Args:
        x: T[B,L,D], float32, float16 or bfloat16.
        weight: T[D].
        residual: [B,L,D], float32 if ``wide``, else T; None: nothing is added.
        z: T[B,L,D], a gate: silu(z) multiplies x; None: nothing does.
        epsilon: added to the mean square.
        groups: the channels are normed in so many groups of neighbours.
        norm_before_gate: silu(z) multiplies the result instead of x.
        wide: the residual stream is float32.

    Returns:
        ``s / sqrt(mean(s^2) + epsilon) * weight`` as T[B,L,D], and ``s = x * silu(z) + residual`` as the next residual.
    """
    y, total = torch.ops.seqexport.rms_norm(x, weight, residual, z, epsilon, groups, int(norm_before_gate), int(wide))
    return y, total


OP = Op(
    name="RmsNorm",
    stem="rms_norm",
    inputs={"x": "T", "weight": "T", "residual?": "S", "z?": "T"},
    outputs={"y": "T", "sum": "S"},
    windows={"z": ("D",)},
    optional_outputs=("sum",),
    attributes={"epsilon": 1e-6, "groups": 1, "norm_before_gate": 0, "wide": 0},
    reference=reference,
    fake=fake,
    body=body,
)
