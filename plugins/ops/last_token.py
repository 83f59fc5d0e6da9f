"""LastToken: of each sequence of a ragged batch, the last valid token.

    y[b,0] = x[b, clamp(seq_lens[b], 1, L) - 1]

Symbols: B batch, L tokens in this call, D features.

    x        T[B,L,D]
    seq_lens int32[B]     valid tokens of each sequence
    y        T[B,1,D]

T is float32, float16 or bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqexport.plugins.ops.op import Call, Op


def reference(x: Tensor, seq_lens: Tensor) -> list[Tensor]:
    last = seq_lens.long().clamp(1, x.shape[1]) - 1
    return [x.take_along_dim(last[:, None, None], dim=1)]


def fake(x: Tensor, seq_lens: Tensor) -> list[Tensor]:
    return [x.new_empty(x.shape[0], 1, x.shape[2])]


def body(call: Call) -> list[str]:
    return [
        "L_ = Shape <start = 1, end = 2> (x)",
        "one = Constant <value_int = 1> ()",
        "L = Squeeze (L_)",
        "valid = Cast <to = 7> (seq_lens)",
        "at_least = Max (valid, one)",
        "count = Min (at_least, L)",
        "last = Sub (count, one)",
        "axes = Constant <value_ints = [1, 2]> ()",
        "row = Unsqueeze (last, axes)",
        "y = GatherND <batch_dims = 1> (x, row)",
    ]


def last_token(x: Tensor, seq_lens: Tensor) -> Tensor:
    """T[B,1,D]: of each sequence of ``x`` T[B,L,D] the last of its ``seq_lens`` int32[B] valid tokens."""
    (y,) = torch.ops.seqexport.last_token(x, seq_lens)
    return y


OP = Op(
    name="LastToken",
    stem="last_token",
    inputs={"x": "T", "seq_lens": "I"},
    outputs={"y": "T"},
    reference=reference,
    fake=fake,
    body=body,
)
