"""Removes the transposes between transformers' channel-major layout and the token-major one of our ops.

1. Two transposes that undo each other vanish, and so they do around a Slice, as around a flip of the tokens.
2. Split of a transposed tensor becomes transposed parts of a split.
3. W @ transpose(x), transposed, becomes x @ transpose(W).

Vision models scan K directions as groups of channels of one scan, [B,K,D,L] seen as [B,K*D,L]. Across such a Reshape:

4. transpose(reshape(x)) becomes a reshape of a transposed x, and reshape(transpose(y)) a transposed reshape of y, so
   that a transpose meets what made x, or what reads y, and ONNX Runtime moves it on to where it costs least.
5. What brings W @ x, of K matrices, to [B,L,K,D] becomes the arrangement of transpose(x) @ transpose(W), whose rows it
   moves whole.
6. Behind a scan, a transpose sinks through what puts the directions together again (sink_transposes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from seqexport.exporter.passes.matching import made_by, permutation, rank, untransposed
from seqexport.exporter.passes.parameters import numbers
from seqexport.exporter.passes.sink_transposes import LAST_TWO, sink
from seqexport.plugins.ops import DOMAIN

ARRANGING = ("Transpose", "Reshape", "Split", "Slice", "Gather", "Add")
TOKENS_FIRST, ROWS_FIRST, MATRICES, TOKENS_LAST = [0, 3, 1, 2], [0, 2, 1, 3], [0, 1, 3, 2], [0, 2, 3, 1]
"""Of [B,K,D,L]: to [B,L,K,D]; of [B,K,L,D]: to the same; each matrix; and back from [B,L,K,D]."""


def cancel_transposes(model: ir.Model) -> None:
    rules: tuple[Callable[[ir.Graph, ir.Node], bool], ...] = (
        _cancel_pair, _cancel_around_slice, _split_first, _swap_product, _reshape_last, _reshape_first, _swap_matrices,
        _sink,
    )  # fmt: skip
    changed = True
    while changed:
        changed = any(rule(model.graph, node) for node in list(model.graph) if node.graph for rule in rules)
        RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)


def _cancel_pair(graph: ir.Graph, node: ir.Node) -> bool:  # 1
    outer, inner = permutation(node.outputs[0]), permutation(node.inputs[0]) if node.inputs else None
    if not _undone(outer, inner):
        return False
    if node.outputs[0].is_graph_output() or not node.outputs[0].uses():
        return False
    ir.convenience.replace_all_uses_with(node.outputs[0], untransposed(node.inputs[0]))
    return True


def _cancel_around_slice(graph: ir.Graph, node: ir.Node) -> bool:  # 1
    part = made_by(node.inputs[0], "Slice") if permutation(node.outputs[0]) is not None else None
    if part is None or not _undone(permutation(node.outputs[0]), permutation(part.inputs[0])):
        return False
    moved = sink(graph, part)
    if moved is None:
        return False
    _replace(node, [untransposed(moved)])
    return True


def _undone(outer: list[int] | None, inner: list[int] | None) -> bool:
    """Whether the outer of two transposes brings back what the inner is given."""
    return outer is not None and inner is not None and [inner[axis] for axis in outer] == list(range(len(outer)))


def _split_first(graph: ir.Graph, node: ir.Node) -> bool:  # 2
    perm = permutation(node.inputs[0]) if node.op_type == "Split" else None
    if perm is None:
        return False
    parts = ir.node(
        "Split",
        [untransposed(node.inputs[0]), *node.inputs[1:]],
        {**{k: a.value for k, a in node.attributes.items()}, "axis": perm[node.attributes["axis"].as_int()]},
        num_outputs=len(node.outputs),
    )
    restored = [ir.node("Transpose", [part], {"perm": perm}) for part in parts.outputs]
    graph.insert_after(node, [parts, *restored])
    _replace(node, [each.outputs[0] for each in restored])
    return True


def _swap_product(graph: ir.Graph, node: ir.Node) -> bool:  # 3
    product = node.inputs[0].producer() if permutation(node.outputs[0]) == LAST_TWO and node.inputs[0] else None
    if product is None or product.op_type != "MatMul" or permutation(product.inputs[1]) != LAST_TWO:
        return False
    weight, x = product.inputs[0], untransposed(product.inputs[1])
    if weight is None or weight.shape is None or len(weight.shape) != 2:
        return False
    transposed = ir.node("Transpose", [weight], {"perm": [1, 0]})
    transposed.outputs[0].shape, transposed.outputs[0].type = (
        ir.Shape(reversed(weight.shape.dims)),
        weight.type,
    )
    swapped = ir.node("MatMul", [x, transposed.outputs[0]])
    graph.insert_after(node, [transposed, swapped])
    _replace(node, swapped.outputs)
    return True


def _reshape_last(graph: ir.Graph, node: ir.Node) -> bool:  # 4
    reshape = node.inputs[0].producer() if permutation(node.outputs[0]) == LAST_TWO and node.inputs[0] else None
    if reshape is None or not joins_channels(reshape, reshape.inputs[0], reshape.outputs[0]):
        return False
    x, whole = reshape.inputs[0], reshape.outputs[0]
    assert x is not None and x.shape is not None and whole.shape is not None
    tokens = ir.node("Transpose", [x], {"perm": TOKENS_FIRST})
    _typed(tokens.outputs[0], x, TOKENS_FIRST)
    joined = ir.node("Reshape", [tokens.outputs[0], numbers(graph, 0, 0, -1)])
    graph.insert_after(node, [tokens, joined])
    _replace(node, joined.outputs)
    return True


def _reshape_first(graph: ir.Graph, node: ir.Node) -> bool:  # 4
    if permutation(node.inputs[0]) != LAST_TWO or not joins_channels(node, node.outputs[0], node.inputs[0]):
        return False
    parted, y = node.outputs[0], untransposed(node.inputs[0])
    assert parted.shape is not None
    sizes = [int(size) for size in parted.shape[1:3]]  # type: ignore[arg-type]
    parts = ir.node("Reshape", [y, numbers(graph, 0, 0, *sizes)])
    _typed(parts.outputs[0], parted, TOKENS_FIRST)
    back = ir.node("Transpose", [parts.outputs[0]], {"perm": TOKENS_LAST})
    graph.insert_after(node, [parts, back])
    _replace(node, back.outputs)
    return True


def _swap_matrices(graph: ir.Graph, node: ir.Node) -> bool:  # 5
    product = node.inputs[0].producer() if permutation(node.outputs[0]) == TOKENS_FIRST and node.inputs[0] else None
    weight = product.inputs[0] if product is not None and product.op_type == "MatMul" else None
    x = product.inputs[1] if product is not None and weight is not None else None
    if weight is None or x is None or weight.const_value is None or rank(weight) != 3 or rank(x) != 4:
        return False
    turned = ir.node("Transpose", [x], {"perm": MATRICES})
    _typed(turned.outputs[0], x, MATRICES)
    across = ir.node("Transpose", [weight], {"perm": LAST_TWO})
    _typed(across.outputs[0], weight, LAST_TWO)
    swapped = ir.node("MatMul", [turned.outputs[0], across.outputs[0]])
    _typed(swapped.outputs[0], node.inputs[0], MATRICES)
    rows = ir.node("Transpose", swapped.outputs, {"perm": ROWS_FIRST})
    graph.insert_after(node, [turned, across, swapped, rows])
    _replace(node, rows.outputs)
    return True


def _sink(graph: ir.Graph, node: ir.Node) -> bool:  # 6
    value = sink(graph, node) if _follows_an_op(node) else None
    if value is None:
        return False
    _replace(node, [value])
    return True


def _follows_an_op(node: ir.Node | None) -> bool:
    """Whether only arranging stands between an op of ours and a node."""
    while node is not None and node.domain == "" and node.op_type in ARRANGING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.domain == DOMAIN


def joins_channels(reshape: ir.Node, parted: ir.Value | None, whole: ir.Value | None) -> bool:
    """Whether a Reshape stands between [B,K,D,L] and [B,K*D,L], with K and D known."""
    if reshape.op_type != "Reshape" or reshape.domain or rank(parted) != 4 or rank(whole) != 3:
        return False
    assert parted is not None and parted.shape is not None and whole is not None and whole.shape is not None
    batch, directions, channels, tokens = parted.shape
    if not isinstance(directions, int) or not isinstance(channels, int):
        return False
    return [str(size) for size in (batch, directions * channels, tokens)] == [str(size) for size in whole.shape]


def _typed(value: ir.Value, like: ir.Value | None, perm: Sequence[int]) -> None:
    """What a Transpose of ``like`` gives."""
    if like is not None and like.shape is not None:
        value.shape, value.type = ir.Shape([like.shape[axis] for axis in perm]), like.type


def _replace(node: ir.Node, outputs: Sequence[ir.Value]) -> None:
    for old, new in zip(node.outputs, outputs, strict=True):
        new.name, new.shape, new.type = f"{old.name}_", old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
