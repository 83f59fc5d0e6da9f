"""RmsNorm: a sum with the residual stream, and its root mean square norm (Zhang & Sennrich 2019, eq. 4).

    s = x + residual;   y = s / sqrt(mean(s^2) + epsilon) * weight

Symbols: B batch, L tokens in this call, D channels, over which the mean is.

    x        T[B,L,D]
    weight   T[D]
    residual S[B,L,D], optional: s is x without it
    y        T[B,L,D]
    sum      S[B,L,D]      s, what the next residual is

T is float32, float16 or bfloat16. S is float32 if ``wide`` is 1, else T. Arithmetic is float32, and s is not rounded
before it is normalised; transformers rounds it to T first, and y before it is multiplied by the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqexport.plugins.ops.op import Call, Op
from seqexport.plugins.ops.ragged import accumulation_dtype


def reference(
    x: Tensor, weight: Tensor, residual: Tensor | None, epsilon: float = 1e-6, wide: int = 0
) -> tuple[Tensor, Tensor]:
    s = x.to(accumulation_dtype(x))
    s = s if residual is None else s + residual
    y = s * torch.rsqrt(s.square().mean(-1, keepdim=True) + epsilon) * weight
    return y.to(x.dtype), s.to(stream_dtype(x, wide), copy=True)


def stream_dtype(x: Tensor, wide: int) -> torch.dtype:
    """S, if T is the type of x."""
    return accumulation_dtype(x) if wide else x.dtype


def fake(
    x: Tensor, weight: Tensor, residual: Tensor | None, epsilon: float = 1e-6, wide: int = 0
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=stream_dtype(x, wide))


def body(call: Call) -> list[str]:
    wide = call.attributes["wide"] == 1
    return [
        "x_wide = Cast <to = 1> (x)",
        *_sum(call),
        "sum = Identity (s)" if wide else "sum = CastLike (s, x)",
        "squares = Mul (s, s)",
        "last = Constant <value_ints = [-1]> ()",
        "mean = ReduceMean (squares, last)",
        f"epsilon = Constant <value_float = {call.attributes['epsilon']!r}> ()",
        "shifted = Add (mean, epsilon)",
        "root = Sqrt (shifted)",
        "unit = Div (s, root)",
        "weight_wide = Cast <to = 1> (weight)",
        "scaled = Mul (unit, weight_wide)",
        "y = CastLike (scaled, x)",
    ]


def _sum(call: Call) -> list[str]:
    if "residual" not in call:
        return ["s = Identity (x_wide)"]
    return ["residual_wide = Cast <to = 1> (residual)", "s = Add (x_wide, residual_wide)"]


def rms_norm(
    x: Tensor, weight: Tensor, residual: Tensor | None = None, *, epsilon: float = 1e-6, wide: bool = False
) -> tuple[Tensor, Tensor]:
    """A sum with the residual stream, and its root mean square norm (Zhang & Sennrich 2019, eq. 4).

    Args:
        x: T[B,L,D], float32, float16 or bfloat16.
        weight: T[D].
        residual: [B,L,D], float32 if ``wide``, else T; None: nothing is added.
        epsilon: added to the mean square.
        wide: the residual stream is float32.

    Returns:
        ``s / sqrt(mean(s^2) + epsilon) * weight`` as T[B,L,D], and ``s = x + residual`` as the next residual.
    """
    y, total = torch.ops.seqexport.rms_norm(x, weight, residual, epsilon, int(wide))
    return y, total


OP = Op(
    name="RmsNorm",
    stem="rms_norm",
    inputs={"x": "T", "weight": "T", "residual?": "S"},
    outputs={"y": "T", "sum": "S"},
    attributes={"epsilon": 1e-6, "wide": 0},
    reference=reference,
    fake=fake,
    body=body,
)
