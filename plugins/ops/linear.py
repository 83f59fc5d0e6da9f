"""Linear: up to three projections of the same tokens.

    y = x weight^T + bias;   y1, y2 likewise

Symbols: B batch, L tokens in this call, K features of a token, N, N1, N2 features of a projection.

    x                        T[B,L,K]
    weight, weight1, weight2 T[N,K], T[N1,K], T[N2,K]; the second and the third are optional
    bias, bias1, bias2       T[N], T[N1], T[N2], optional; only with their weight
    y, y1, y2                T[B,L,N], T[B,L,N1], T[B,L,N2]; each there where its weight is

T is float32, float16 or bfloat16; sums are float32 throughout, never TF32. A weight lies as in ``torch.nn.Linear``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqexport.plugins.ops.op import Call, Op
from seqexport.plugins.ops.ragged import accumulation_dtype

SUFFIXES = ("", "1", "2")


def reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight1: Tensor | None, bias1: Tensor | None,
    weight2: Tensor | None, bias2: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    wide = accumulation_dtype(x)
    outputs = []
    for weight_i, bias_i in ((weight, bias), (weight1, bias1), (weight2, bias2)):
        if weight_i is not None:
            y = x.to(wide) @ weight_i.to(wide).T
            outputs.append((y if bias_i is None else y + bias_i.to(wide)).to(x.dtype))
    return outputs


def fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight1: Tensor | None, bias1: Tensor | None,
    weight2: Tensor | None, bias2: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    return empty_outputs(x, [each for each in (weight, weight1, weight2) if each is not None])


def empty_outputs(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    return [x.new_empty(*x.shape[:2], weight.shape[0]) for weight in weights]


def body(call: Call) -> list[str]:
    lines = ["x_wide = Cast <to = 1> (x)"]
    for suffix in SUFFIXES:
        if suffix and f"weight{suffix}" not in call:
            continue
        lines += [
            f"weight_wide{suffix} = Cast <to = 1> (weight{suffix})",
            f"columns{suffix} = Transpose <perm = [1, 0]> (weight_wide{suffix})",
            f"products{suffix} = MatMul (x_wide, columns{suffix})",
        ]
        if f"bias{suffix}" in call:
            lines += [
                f"bias_wide{suffix} = Cast <to = 1> (bias{suffix})",
                f"sums{suffix} = Add (products{suffix}, bias_wide{suffix})",
            ]
        else:
            lines.append(f"sums{suffix} = Identity (products{suffix})")
        lines.append(f"y{suffix} = CastLike (sums{suffix}, x)")
    return lines


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, weight1: Tensor | None = None, bias1: Tensor | None = None,
    weight2: Tensor | None = None, bias2: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    """Up to three projections of the same tokens: ``y = x weight^T + bias``, for each weight that is given.

    Args:
        x: T[B,L,K], float32, float16 or bfloat16.
        weight, weight1, weight2: T[N,K], as in ``torch.nn.Linear``.
        bias, bias1, bias2: T[N]; only with their weight.

    Returns:
        A T[B,L,N] for each weight.
    """
    outputs: list[Tensor] = torch.ops.seqexport.linear(x, weight, bias, weight1, bias1, weight2, bias2)
    return outputs


OP = Op(
    name="Linear",
    stem="linear",
    inputs={"x": "T", "weight": "T", "bias?": "T", "weight1?": "T", "bias1?": "T", "weight2?": "T", "bias2?": "T"},
    outputs={"y": "T", "y1": "T", "y2": "T"},
    brought_by={"y1": "weight1", "y2": "weight2"},
    reference=reference,
    fake=fake,
    body=body,
)
