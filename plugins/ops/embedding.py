"""Embedding: a row of a table for each token.

    y[b,t] = weight[ids[b,t]]

Symbols: B batch, L tokens in this call, V rows of the table, D features.

    weight T[V,D]
    ids    int32[B,L]   one outside the table gives zeros
    y      T[B,L,D]

T is float32, float16 or bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqexport.plugins.ops.op import Call, Op


def reference(weight: Tensor, ids: Tensor) -> list[Tensor]:
    V = weight.shape[0]
    is_inside = (ids >= 0) & (ids < V)
    return [torch.where(is_inside[..., None], weight[ids.long().clamp(0, V - 1)], 0)]


def fake(weight: Tensor, ids: Tensor) -> list[Tensor]:
    return [weight.new_empty(*ids.shape, weight.shape[1])]


def body(call: Call) -> list[str]:
    return [
        "V_ = Shape <start = 0, end = 1> (weight)",
        "zero = Constant <value_int = 0> ()",
        "one = Constant <value_int = 1> ()",
        "V = Squeeze (V_)",
        "last = Sub (V, one)",
        "wanted = Cast <to = 7> (ids)",
        "not_below = GreaterOrEqual (wanted, zero)",
        "not_above = LessOrEqual (wanted, last)",
        "is_inside_ = And (not_below, not_above)",
        "axis2 = Constant <value_ints = [2]> ()",
        "is_inside = Unsqueeze (is_inside_, axis2)",
        "at_least = Max (wanted, zero)",
        "row = Min (at_least, last)",
        "rows = Gather <axis = 0> (weight, row)",
        "zero_wide = Constant <value_float = 0.0> ()",
        "zero_T = CastLike (zero_wide, weight)",
        "y = Where (is_inside, rows, zero_T)",
    ]


def embedding(weight: Tensor, ids: Tensor) -> Tensor:
    """T[B,L,D]: the row of ``weight`` T[V,D] for each token of ``ids`` int32[B,L]; zeros for one outside the table."""
    (y,) = torch.ops.seqexport.embedding(weight, ids)
    return y


OP = Op(
    name="Embedding",
    stem="embedding",
    inputs={"weight": "T", "ids": "I"},
    outputs={"y": "T"},
    reference=reference,
    fake=fake,
    body=body,
)
