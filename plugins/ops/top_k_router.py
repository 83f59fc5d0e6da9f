"""TopKRouter: the k experts that each token's scores choose, and their weights.

    score = softmax(logits) or sigmoid(logits);   chosen = the k largest of score + bias
    weight = scale * score[chosen], before that over (the sum of a token's + epsilon) if ``normalised``

Symbols: B batch, L tokens in this call, E experts, k experts of a token, G groups of neighbouring experts.

    logits T[B,L,E]
    bias   F[E]        optional: a correction that chooses and does not weigh (DeepSeek-V3, arXiv 2412.19437, 2.1.2)
    chosen I[B,L,k]    from the largest on; equal ones in the experts' order
    weight F[B,L,k]

With ``kept_groups`` below ``groups`` a token chooses among the experts of the groups whose two largest score + bias sum
to the most, as the same model does. A softmax over the chosen logits alone is the normalised softmax over all. T is
float32, float16 or bfloat16; arithmetic is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqexport.plugins.ops.op import Call, Op
from seqexport.plugins.ops.ragged import accumulation_dtype


def reference(
    logits: Tensor, bias: Tensor | None, k: int = 1, score: str = "softmax", normalised: int = 0, epsilon: float = 0.0,
    scale: float = 1.0, groups: int = 1, kept_groups: int = 1,
) -> list[Tensor]:  # fmt: skip
    wide = logits.to(accumulation_dtype(logits))
    scores = wide.softmax(-1) if score == "softmax" else wide.sigmoid()
    ranked = scores if bias is None else scores + bias
    if kept_groups < groups:
        ranked = _of_kept_groups(ranked, groups, kept_groups)
    chosen = _largest(ranked, k)
    weight = scores.gather(-1, chosen)
    if normalised:
        weight = weight / (weight.sum(-1, keepdim=True) + epsilon)
    return [chosen.int(), (weight * scale).to(accumulation_dtype(logits))]


def _largest(x: Tensor, count: int) -> Tensor:
    """Indices of the largest along the last axis, from the largest on; equal ones in their order, NaN first."""
    return x.sort(dim=-1, descending=True, stable=True).indices[..., :count]


def _of_kept_groups(ranked: Tensor, groups: int, kept: int) -> Tensor:
    grouped = ranked.unflatten(-1, (groups, -1))
    best = grouped.topk(min(2, grouped.shape[-1])).values.sum(-1)
    is_kept = torch.zeros_like(best, dtype=torch.bool).scatter(-1, _largest(best, kept), True)
    return grouped.masked_fill(~is_kept[..., None], -torch.inf).flatten(-2)


def fake(
    logits: Tensor, bias: Tensor | None, k: int = 1, score: str = "softmax", normalised: int = 0, epsilon: float = 0.0,
    scale: float = 1.0, groups: int = 1, kept_groups: int = 1,
) -> list[Tensor]:  # fmt: skip
    shape = (*logits.shape[:-1], k)
    return [logits.new_empty(shape, dtype=torch.int32), logits.new_empty(shape, dtype=accumulation_dtype(logits))]


def body(call: Call) -> list[str]:
    """The standard ops that transformers' routers are traced into."""
    attributes = call.attributes
    return [
        "wide = Cast <to = 1> (logits)",
        "scores = Softmax <axis = -1> (wide)" if attributes["score"] == "softmax" else "scores = Sigmoid (wide)",
        "ranked = Add (scores, bias)" if "bias" in call else "ranked = Identity (scores)",
        *_kept_groups(call),
        f"k = Constant <value_ints = [{attributes['k']}]> ()",
        "largest, index = TopK <axis = -1> (candidates, k)",
        "chosen = Cast <to = 6> (index)",
        "picked = GatherElements <axis = -1> (scores, index)",
        *_normalised(call),
        f"scale = Constant <value_float = {attributes['scale']!r}> ()",
        "weight = Mul (unit, scale)",
    ]


def _kept_groups(call: Call) -> list[str]:
    groups, kept = call.attributes["groups"], call.attributes["kept_groups"]
    if kept == groups:
        return ["candidates = Identity (ranked)"]
    return [
        f"in_groups = Constant <value_ints = [0, 0, {groups}, -1]> ()",
        "grouped = Reshape (ranked, in_groups)",
        "size = Shape <start = 3, end = 4> (grouped)",
        "two = Constant <value_ints = [2]> ()",
        "count = Min (size, two)",
        "best, best_index = TopK <axis = -1> (grouped, count)",
        "last = Constant <value_ints = [-1]> ()",
        "best_sum = ReduceSum <keepdims = 0> (best, last)",
        f"kept = Constant <value_ints = [{kept}]> ()",
        "kept_sum, kept_index = TopK <axis = -1> (best_sum, kept)",
        "sums_shape = Shape (best_sum)",
        "none = ConstantOfShape <value = bool[1] {0}> (sums_shape)",
        "kept_shape = Shape (kept_index)",
        "some = ConstantOfShape <value = bool[1] {1}> (kept_shape)",
        "is_kept = ScatterElements <axis = -1> (none, kept_index, some)",
        "is_kept_column = Unsqueeze (is_kept, last)",
        "lowest = Constant <value = float {-inf}> ()",
        "masked = Where (is_kept_column, grouped, lowest)",
        "token = Constant <value_ints = [0, 0, -1]> ()",
        "candidates = Reshape (masked, token)",
    ]


def _normalised(call: Call) -> list[str]:
    if not call.attributes["normalised"]:
        return ["unit = Identity (picked)"]
    return [
        "axis = Constant <value_ints = [-1]> ()",
        "sum = ReduceSum <keepdims = 1> (picked, axis)",
        f"epsilon = Constant <value_float = {call.attributes['epsilon']!r}> ()",
        "by = Add (sum, epsilon)",
        "unit = Div (picked, by)",
    ]


def top_k_router(
    logits: Tensor, bias: Tensor | None = None, *, k: int = 1, score: str = "softmax", normalised: bool = False,
    epsilon: float = 0.0, scale: float = 1.0, groups: int = 1, kept_groups: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The ``k`` experts that each token's scores choose, and their weights: what ``experts`` takes.

    Args:
        logits: T[B,L,E], float32, float16 or bfloat16.
        bias: float32[E]; is added to the scores where they are compared, and is no part of the weights.
        k: experts of a token.
        score: "softmax" over all experts, or "sigmoid" of each.
        normalised: a token's weights are divided by their sum and ``epsilon``.
        epsilon: keeps that sum from 0.
        scale: multiplies the weights, after all else.
        groups: of neighbouring experts; divides E.
        kept_groups: a token chooses among so many groups, whose two largest scores sum to the most.

    Returns:
        int32[B,L,k] and float32[B,L,k], from the largest score on; equal ones in the experts' order.
    """
    chosen, weight = torch.ops.seqexport.top_k_router(
        logits, bias, k, score, int(normalised), epsilon, scale, groups, kept_groups
    )
    return chosen, weight


OP = Op(
    name="TopKRouter",
    stem="top_k_router",
    inputs={"logits": "T", "bias?": "F"},
    outputs={"chosen": "I", "weight": "F"},
    attributes={
        "k": 1, "score": "softmax", "normalised": 0, "epsilon": 0.0, "scale": 1.0, "groups": 1, "kept_groups": 1,
    },
    reference=reference,
    fake=fake,
    body=body,
)  # fmt: skip
