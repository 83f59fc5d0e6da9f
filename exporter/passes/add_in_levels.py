"""Targets ``portable`` and ``ort``: a float32 sum or mean over many places, tokens or pixels, is made in levels.

ONNX Runtime's CPU provider adds one place to the next, so that the rounding grows with their number: over 56 x 56
places to 14 times that of PyTorch (seen), which adds in a cascade. In levels it is as exact as there, and no slower.

1. The reduced axes, which stand side by side, become one, of n places.
2. Twice: n is filled up with zeros to a multiple of 16, and every 16 places are added.
3. What is left is added. For a mean, the sum is divided by n.
4. Up to 16 places stay as they are, and so do last axes of known size, as norms have: ONNX Runtime adds them in lanes.
"""

from __future__ import annotations

import math

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seqexport.exporter.passes.matching import constant, takes_over
from seqexport.exporter.passes.parameters import numbers

GROUP, LEVELS = 16, 2


def add_in_levels(model: ir.Model) -> None:
    for node in list(model.graph):
        axes = _axes(node)
        if axes is not None:
            _rewrite(model.graph, node, axes)
    RemoveUnusedNodesPass()(model)


def _axes(node: ir.Node) -> range | None:
    """The axes that a node reduces, where it is to be rewritten."""
    x = node.inputs[0] if node.domain == "" and node.op_type in ("ReduceMean", "ReduceSum") else None
    given = constant(node.inputs[1]) if x is not None and len(node.inputs) > 1 else None
    if x is None or x.dtype != ir.DataType.FLOAT or x.shape is None or given is None or not given.size:
        return None
    rank = len(x.shape)
    found = sorted(int(axis) % rank for axis in given.reshape(-1))
    axes = range(found[0], found[-1] + 1)
    if len(axes) != len(found):
        return None
    sizes = [x.shape[axis] for axis in axes]
    places = math.prod(size if isinstance(size, int) else math.inf for size in sizes)
    stays = places <= GROUP or (axes.stop == rank and places < math.inf)  # 4
    return None if stays else axes


class _Writer:
    """Puts nodes before one of a graph."""

    def __init__(self, graph: ir.Graph, before: ir.Node) -> None:
        self.graph, self.before = graph, before

    def __call__(self, op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(op_type, inputs, attributes)
        self.graph.insert_before(self.before, node)
        return node.outputs[0]

    def numbers(self, *values: int) -> ir.Value:
        return numbers(self.graph, *values)


def _rewrite(graph: ir.Graph, node: ir.Node, axes: range) -> None:
    op, x = _Writer(graph, node), node.inputs[0]
    assert x is not None and x.shape is not None
    first, rest = axes.start, len(x.shape) - axes.stop
    before, after = op("Shape", x, start=0, end=first), op("Shape", x, start=axes.stop)
    n = left = op("ReduceProd", op("Shape", x, start=first, end=axes.stop), keepdims=1)
    total = op("Reshape", x, op("Concat", before, n, after, axis=0)) if len(axes) > 1 else x  # 1
    for _ in range(LEVELS):  # 2
        group = op.numbers(GROUP)
        groups = op("Div", op("Add", left, op.numbers(GROUP - 1)), group)
        lacking = op("Sub", op("Mul", groups, group), left)
        ends = op("Concat", op.numbers(*[0] * (2 * first + 1 + rest)), lacking, op.numbers(*[0] * rest), axis=0)
        parts = op("Reshape", op("Pad", total, ends), op("Concat", before, groups, group, after, axis=0))
        total, left = op("ReduceSum", parts, op.numbers(first + 1), keepdims=0), groups
    total = op("ReduceSum", total, op.numbers(first), keepdims=0)  # 3
    if node.op_type == "ReduceMean":
        total = op("Div", total, op("Cast", op("Squeeze", n), to=ir.DataType.FLOAT.value))
    if "keepdims" not in node.attributes or node.attributes["keepdims"].as_int():
        total = op("Unsqueeze", total, op.numbers(*axes))
    takes_over(node.outputs[0], total)
