"""Target ``tensorrt``: queries and keys that are turned by their positions, each head for itself, become one node.

1. x * cos + concat(-x[half:], x[:half]) * sin on [batch, heads, seq, Dh], between the transposes to that layout and
   back; cos and sin are [batch, seq, Dh] before a head axis was put in.
2. The same for the first R features of a head, with the others behind them as they were (GPT-NeoX's partial rotation).
3. Query and key of one CausalAttention, by the same cos and sin.

Other layouts (pairs of neighbours), and heads that are normalised on the way, stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from seqexport.exporter.passes.matching import constant, is_constant, made_by, permutation, rank, untransposed
from seqexport.plugins.ops import DOMAIN

HEADS_FIRST = [0, 2, 1, 3]


@dataclass
class Rotation:
    """``x`` [batch, seq, heads, Dh], or [batch, heads, seq, Dh] on the way; ``cos`` and ``sin`` [batch, seq, R]."""

    x: ir.Value
    cos: ir.Value
    sin: ir.Value


def fuse_rotary_embedding(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.domain != DOMAIN or node.op_type != "CausalAttention":
            continue
        query, key = (_match(value) for value in node.inputs[:2])
        if query is not None and key is not None and (query.cos, query.sin) == (key.cos, key.sin):  # 3
            _replace(model.graph, node, query, key)
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)


def _match(value: ir.Value | None) -> Rotation | None:
    turned = _transposed(value)
    if turned is None:
        return None
    whole = made_by(turned, "Concat")
    rotation = _rotation(turned if whole is None else whole.inputs[0])
    if rotation is not None and whole is not None:
        rotation = _partial(rotation, whole)
    x = _transposed(rotation.x) if rotation is not None else None
    return Rotation(x, rotation.cos, rotation.sin) if rotation is not None and x is not None else None


def _transposed(value: ir.Value | None) -> ir.Value | None:
    """What a Transpose between [batch, seq, heads, ...] and [batch, heads, seq, ...] makes ``value`` of."""
    return untransposed(value) if permutation(value) == HEADS_FIRST else None


def _rotation(value: ir.Value | None) -> Rotation | None:  # 1
    total = made_by(value, "Add")
    products = [made_by(each, "Mul") for each in total.inputs] if total is not None else []
    for along, across in (products, products[::-1]) if len(products) == 2 else ():
        if along is None or across is None:
            continue
        for turned in across.inputs:
            x = _rotated_half(turned)
            if x is None or x not in along.inputs:
                continue
            cos, sin = (_without_heads(node, of) for node, of in ((along, x), (across, turned)))
            if cos is not None and sin is not None and _fits(cos, x) and _fits(sin, x):
                return Rotation(x, cos, sin)
    return None


def _rotated_half(value: ir.Value | None) -> ir.Value | None:
    """The x of concat(-x[half:], x[:half])."""
    whole = made_by(value, "Concat")
    if whole is None or not _joins_features(whole):
        return None
    minus = made_by(whole.inputs[0], "Neg")
    high = made_by(minus.inputs[0], "Slice") if minus is not None else None
    low = made_by(whole.inputs[1], "Slice")
    if high is None or low is None or high.inputs[0] is not low.inputs[0]:
        return None
    x = low.inputs[0]
    features = x.shape[-1] if x is not None and x.shape is not None and rank(x) == 4 else None
    if not isinstance(features, int) or features % 2:
        return None
    return x if _is_range(low, 0, features // 2) and _is_range(high, features // 2, features) else None


def _joins_features(whole: ir.Node) -> bool:
    """Whether a Concat puts the features of two tensors together."""
    return len(whole.inputs) == 2 and whole.attributes["axis"].as_int() in (-1, 3)


def _is_range(node: ir.Node, first: int, last: int) -> bool:
    """Whether a Slice takes features first..last of the last axis; an end past them is the last."""
    whole = node.inputs[0].shape if node.inputs[0] is not None and len(node.inputs) > 3 else None
    ends = constant(node.inputs[2])
    if whole is None or ends is None or ends.size != 1 or not is_constant(node.inputs[1], first):
        return False
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    is_last = is_constant(node.inputs[3], 3) or is_constant(node.inputs[3], -1)
    size = whole[-1]
    if not isinstance(size, int):
        return False
    return is_last and (steps is None or is_constant(steps, 1)) and min(int(ends.reshape(())), size) == last


def _without_heads(product: ir.Node, x: ir.Value | None) -> ir.Value | None:
    """cos or sin [batch, seq, R], of a product of ``x`` with it."""
    factor = next((value for value in product.inputs if value is not x), None)
    node = made_by(factor, "Unsqueeze")
    return node.inputs[0] if node is not None and is_constant(node.inputs[1], 1) else None


def _fits(angles: ir.Value, x: ir.Value) -> bool:
    """Whether cos or sin has x's type, a value for each token, and as many as x has features."""
    if angles.shape is None or x.shape is None or rank(angles) != 3 or angles.dtype != x.dtype:
        return False
    return list(angles.shape) == [x.shape[0], x.shape[2], x.shape[3]]


def _partial(rotation: Rotation, whole: ir.Node) -> Rotation | None:  # 2
    """The rotation of all features, of which ``whole`` puts those that are turned and the others together."""
    turned, rest = made_by(rotation.x, "Slice"), made_by(whole.inputs[1], "Slice") if _joins_features(whole) else None
    x = turned.inputs[0] if turned is not None else None
    if x is None or x.shape is None or turned is None or rest is None or rest.inputs[0] is not x:
        return None
    R = rotation.cos.shape[-1] if rotation.cos.shape is not None else None
    features = x.shape[-1]
    if not isinstance(R, int) or not isinstance(features, int):
        return None
    is_whole = _is_range(turned, 0, R) and _is_range(rest, R, features)
    return Rotation(x, rotation.cos, rotation.sin) if is_whole else None


def _replace(graph: ir.Graph, attention: ir.Node, query: Rotation, key: Rotation) -> None:
    node = ir.node("RotaryQueryKey", [query.x, key.x, query.cos, query.sin], domain=DOMAIN, num_outputs=2)
    graph.insert_before(attention, node)
    for index, (rotation, made) in enumerate(zip((query, key), node.outputs, strict=True)):
        made.shape, made.type = rotation.x.shape, rotation.x.type
        attention.replace_input_with(index, made)
