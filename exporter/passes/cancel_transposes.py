"""Removes the transposes between transformers' channel-major layout and the token-major one of our ops.

1. Two transposes that undo each other vanish.
2. Split of a transposed tensor becomes transposed parts of a split.
3. W @ transpose(x), transposed, becomes x @ transpose(W).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from seqexport.exporter.passes.matching import permutation, untransposed

LAST_TWO = [0, 2, 1]


def cancel_transposes(model: ir.Model) -> None:
    rules: tuple[Callable[[ir.Graph, ir.Node], bool], ...] = (_cancel_pair, _split_first, _swap_product)
    changed = True
    while changed:
        changed = any(rule(model.graph, node) for node in list(model.graph) if node.graph for rule in rules)
        RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)


def _cancel_pair(graph: ir.Graph, node: ir.Node) -> bool:  # 1
    outer, inner = permutation(node.outputs[0]), permutation(node.inputs[0]) if node.inputs else None
    if outer is None or inner is None or [inner[axis] for axis in outer] != list(range(len(outer))):
        return False
    if node.outputs[0].is_graph_output() or not node.outputs[0].uses():
        return False
    ir.convenience.replace_all_uses_with(node.outputs[0], untransposed(node.inputs[0]))
    return True


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


def _replace(node: ir.Node, outputs: Sequence[ir.Value]) -> None:
    for old, new in zip(node.outputs, outputs, strict=True):
        new.name, new.shape, new.type = f"{old.name}_", old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
