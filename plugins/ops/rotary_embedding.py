"""RotaryQueryKey: queries and keys turned by their positions (Su et al. 2021, eq. 34, halves as in GPT-NeoX).

    y = x * cos + rotate_half(x) * sin,   rotate_half(x) = concat(-x[R/2:], x[:R/2])

Symbols: B batch, L tokens in this call, Hq and Hkv heads, Dh features of a head, R of them turned, from the first on.

    query         T[B,L,Hq,Dh]
    key           T[B,L,Hkv,Dh]
    cos, sin      T[B,L,R]      R is even, at most Dh
    query_rotated T[B,L,Hq,Dh]
    key_rotated   T[B,L,Hkv,Dh]

T is float32, float16 or bfloat16; arithmetic is float32. Not named RotaryEmbedding: TensorRT's parsers look at a node's
name alone, and from 11 on take that one for ONNX's own op.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqexport.plugins.ops.op import Call, Op
from seqexport.plugins.ops.ragged import accumulation_dtype


def reference(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return _rotated(query, cos, sin), _rotated(key, cos, sin)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    R, wide = cos.shape[-1], accumulation_dtype(x)
    turned = x[..., :R].to(wide)
    low, high = turned.chunk(2, dim=-1)
    y = turned * cos[:, :, None].to(wide) + torch.cat([-high, low], dim=-1) * sin[:, :, None].to(wide)
    return torch.cat([y.to(x.dtype), x[..., R:]], dim=-1)


def fake(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key)


def body(call: Call) -> list[str]:
    return [
        "R = Shape <start = 2, end = 3> (cos)",
        "two = Constant <value_ints = [2]> ()",
        "half = Div (R, two)",
        "heads = Constant <value_ints = [2]> ()",
        "features = Constant <value_ints = [3]> ()",
        "first = Constant <value_ints = [0]> ()",
        "end = Constant <value_ints = [9223372036854775807]> ()",
        "cos_wide_ = Cast <to = 1> (cos)",
        "sin_wide_ = Cast <to = 1> (sin)",
        "cos_wide = Unsqueeze (cos_wide_, heads)",
        "sin_wide = Unsqueeze (sin_wide_, heads)",
        *_rotated_lines("query"),
        *_rotated_lines("key"),
    ]


def _rotated_lines(x: str) -> list[str]:
    return [
        f"{x}_turned_ = Slice ({x}, first, R, features)",
        f"{x}_passed = Slice ({x}, R, end, features)",
        f"{x}_turned = Cast <to = 1> ({x}_turned_)",
        f"{x}_low = Slice ({x}_turned, first, half, features)",
        f"{x}_high = Slice ({x}_turned, half, R, features)",
        f"{x}_minus = Neg ({x}_high)",
        f"{x}_crossed = Concat <axis = 3> ({x}_minus, {x}_low)",
        f"{x}_along = Mul ({x}_turned, cos_wide)",
        f"{x}_across = Mul ({x}_crossed, sin_wide)",
        f"{x}_wide = Add ({x}_along, {x}_across)",
        f"{x}_done = CastLike ({x}_wide, {x})",
        f"{x}_rotated = Concat <axis = 3> ({x}_done, {x}_passed)",
    ]


def rotary_embedding(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by their positions (Su et al. 2021, eq. 34, halves as in GPT-NeoX).

    Args:
        query, key: T[B,L,Hq,Dh] and T[B,L,Hkv,Dh], float32, float16 or bfloat16.
        cos, sin: T[B,L,R] of each token's angles; R, even, is how many of a head's features are turned, from the first.

    Returns:
        Query and key in their shapes.
    """
    turned_query, turned_key = torch.ops.seqexport.rotary_embedding(query, key, cos, sin)
    return turned_query, turned_key


OP = Op(
    name="RotaryQueryKey",
    stem="rotary_embedding",
    inputs={"query": "T", "key": "T", "cos": "T", "sin": "T"},
    outputs={"query_rotated": "T", "key_rotated": "T"},
    reference=reference,
    fake=fake,
    body=body,
)
