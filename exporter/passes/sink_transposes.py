"""A transpose after a scan goes on through what puts directions together again, to where it meets its inverse.

1. Slice: its axes are those of the transposed.
2. Add of two that are transposed alike.
3. Gather of one index, of an axis that the transpose has anywhere.
4. Reshape of [B,D,L] to a map [B,D,H,W], transposed from [B,L,D]: a map [B,H,W,D], transposed; and back likewise.
5. Another transpose: both become one.
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.exporter.passes.matching import constant, made_by, permutation, rank, untransposed
from seqexport.exporter.passes.parameters import numbers

LAST_TWO, MAP, TURNED = [0, 2, 1], [0, 3, 1, 2], [0, 3, 2, 1]
"""To channel-major: of tokens, of a map, and of a map whose rows become columns."""


def sink(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """What stands for the node's output where a rule applies; its new nodes are in the graph, behind the node."""
    rule = {"Slice": _slice, "Add": _add, "Gather": _gather, "Reshape": _reshape, "Transpose": _transpose}.get(
        node.op_type
    )
    return None if rule is None or node.domain or not node.inputs else rule(graph, node)


def _slice(graph: ir.Graph, node: ir.Node) -> ir.Value | None:  # 1
    perm = permutation(node.inputs[0])
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if perm is None or axes is None:
        return None
    moved = numbers(graph, *(perm[int(axis)] for axis in axes.reshape(-1)))
    return _behind(graph, node, [untransposed(node.inputs[0]), *node.inputs[1:3], moved, *node.inputs[4:]], perm)


def _add(graph: ir.Graph, node: ir.Node) -> ir.Value | None:  # 2
    first, second = (permutation(value) for value in node.inputs)
    if first is None or first != second:
        return None
    return _behind(graph, node, [untransposed(value) for value in node.inputs], first)


def _gather(graph: ir.Graph, node: ir.Node) -> ir.Value | None:  # 3
    perm, index = permutation(node.inputs[0]), constant(node.inputs[1])
    if perm is None or index is None or index.ndim:
        return None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    gone = perm[axis]
    left = [each - (each > gone) for place, each in enumerate(perm) if place != axis % len(perm)]
    return _behind(graph, node, [untransposed(node.inputs[0]), node.inputs[1]], left, axis=gone)


def _transpose(graph: ir.Graph, node: ir.Node) -> ir.Value | None:  # 5
    outer, inner = permutation(node.outputs[0]), permutation(node.inputs[0])
    if outer is None or inner is None:
        return None
    one = ir.node("Transpose", [untransposed(node.inputs[0])], {"perm": [inner[axis] for axis in outer]})
    graph.insert_after(node, one)
    return one.outputs[0]


def _reshape(graph: ir.Graph, node: ir.Node) -> ir.Value | None:  # 4
    return _to_line(graph, node) if permutation(node.inputs[0]) in (MAP, TURNED) else _to_map(graph, node)


def _to_line(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    given, made = node.inputs[0], node.outputs[0]
    if rank(made) != 3 or made.shape is None or given is None or given.shape is None:
        return None
    channels = given.shape[1]
    if not isinstance(channels, int) or [str(size) for size in made.shape[:2]] != [
        str(size) for size in given.shape[:2]
    ]:
        return None
    source = untransposed(given)
    if permutation(given) == TURNED:
        rows = ir.node("Transpose", [source], {"perm": [0, 2, 1, 3]})
        graph.insert_before(node, rows)
        source = rows.outputs[0]
    return _behind(graph, node, [source, numbers(graph, 0, -1, channels)], LAST_TWO, op_type="Reshape")


def _to_map(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    given, made = node.inputs[0], node.outputs[0]
    if permutation(given) != LAST_TWO or rank(made) != 4 or made.shape is None or given is None or given.shape is None:
        return None
    if [str(size) for size in made.shape[:2]] != [str(size) for size in given.shape[:2]]:
        return None
    shape = _map_sizes(graph, node, made.shape)
    if shape is None:
        return None
    behind = shape.producer() or node
    return _behind(graph, behind, [untransposed(given), shape], MAP, op_type="Reshape", like=made)


def _map_sizes(graph: ir.Graph, node: ir.Node, made: ir.Shape) -> ir.Value | None:
    """What a Reshape to [B,D,H,W] is told, with the channels last."""
    channels, sizes, known = made[1], made_by(node.inputs[1], "Concat"), constant(node.inputs[1])
    if known is not None and min(told := [int(size) for size in known.reshape(-1)][1:]) > 0:
        return numbers(graph, int(known[0]), *told[1:], told[0])
    if sizes is None or len(sizes.inputs) != 4 or not isinstance(channels, int):
        return None
    first, _, second, third = sizes.inputs
    shape = ir.node("Concat", [first, second, third, numbers(graph, channels)], {"axis": 0})
    graph.insert_after(node, shape)
    return shape.outputs[0]


def _behind(
    graph: ir.Graph,
    node: ir.Node,
    inputs: list[ir.Value | None],
    perm: list[int],
    *,
    axis: int | None = None,
    op_type: str | None = None,
    like: ir.Value | None = None,
) -> ir.Value:
    """The node on what is not transposed, and a transpose of what it gives."""
    made = like or node.outputs[0]
    attributes = {} if axis is None else {"axis": axis}
    new = ir.node(op_type or node.op_type, inputs, attributes)
    value = new.outputs[0]
    if made.shape is not None:
        value.shape, value.type = ir.Shape([made.shape[perm.index(each)] for each in range(len(perm))]), made.type
    back = ir.node("Transpose", [value], {"perm": perm})
    graph.insert_after(node, [new, back])
    return back.outputs[0]
