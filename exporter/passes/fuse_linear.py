"""Target ``tensorrt``: products with weights become Linear, with their biases, and up to three of one input in a node.

1. A projection is a MatMul of x [batch, seq, K] with a weight that the graph stores; if the product is only added to a
   bias, the bias belongs to it. Linear wants the weight as PyTorch stores it, [N, K], so a Transpose before the MatMul
   is undone. That also keeps a tied embedding table from being stored twice.
2. Where a projection is split into two or three parts, each part becomes a projection of its own, of its rows of the
   weight; the Split goes.
3. Projections of the same input are put into one node, three at most.
4. A map [batch, height, width, K], or what has more axes still, is projected as [batch, tokens, K]. TensorRT's own
   products sum float16 in float16: VMamba's had 2.1 times PyTorch's error, and 1.75 times with Linear, which sums in
   float32 and took less time (H200, TensorRT 8.6.0, 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from seqexport.exporter.passes.fold_parameters import TRANSPOSED, transposed
from seqexport.exporter.passes.matching import (
    FLOATS,
    features,
    only_user,
    other_input,
    permutation,
    rank,
    split_sizes,
    takes_over,
    untransposed,
)
from seqexport.exporter.passes.parameters import derived, initializer, numbers
from seqexport.plugins.ops import DOMAIN

MOST = 3
"""Projections that a node can have."""


@dataclass
class Projection:
    """``weight`` [N, K], ``bias`` [N], the value that it makes, and the MatMul that it comes from."""

    weight: ir.Value
    bias: ir.Value | None
    y: ir.Value
    product: ir.Node

    @property
    def x(self) -> ir.Value:
        (x, _) = self.product.inputs
        assert x is not None
        return x


def fuse_linear(model: ir.Model, most: int = MOST) -> None:
    """``most``: projections that share a node, at most."""
    by_input: dict[ir.Value, list[Projection]] = {}
    for node in list(model.graph):
        projection = _match(model.graph, node) if node.op_type == "MatMul" and node.domain == "" else None
        if projection is not None:
            by_input.setdefault(projection.x, []).extend(_parts(model.graph, projection))
    for projections in by_input.values():
        for together in _grouped(projections, most):  # 3
            _replace(model.graph, together)
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)


def _match(graph: ir.Graph, node: ir.Node) -> Projection | None:  # 1
    x, columns = node.inputs
    if x is None or x.dtype not in FLOATS or (rank(x) or 0) < 3 or columns is None:
        return None
    weight = _as_rows(graph, columns)
    if weight is None or weight.shape is None:
        return None
    y, bias, addition = node.outputs[0], None, only_user(node.outputs[0])
    if addition is not None and addition.op_type == "Add":
        bias = other_input(addition, y)
        if bias is not None and bias.is_initializer() and list(bias.shape or ()) == [weight.shape[0]]:
            y = addition.outputs[0]
        else:
            bias = None
    return Projection(weight, bias, y, node)


def _as_rows(graph: ir.Graph, columns: ir.Value) -> ir.Value | None:
    """The weight [N, K] that ``columns`` [K, N] is the transpose of."""
    if permutation(columns) == [1, 0] and untransposed(columns).is_initializer():
        return untransposed(columns)
    if not columns.is_initializer() or columns.const_value is None or rank(columns) != 2:
        return None
    tensor, original = columns.const_value, columns.meta.get(TRANSPOSED)
    if original is not None and columns.name is not None:
        return initializer(graph, columns.name.removesuffix(".transpose"), original)
    shape = tensor.shape.numpy()[::-1]
    return derived(graph, f"{columns.name}.rows", tensor.dtype, shape, lambda: transposed(tensor.numpy(), [1, 0]))


def _parts(graph: ir.Graph, projection: Projection) -> list[Projection]:  # 2
    split = only_user(projection.y)
    sizes = split_sizes(split) if split is not None else None
    if split is None or sizes is None or not 1 < len(sizes) <= MOST:
        return [projection]
    parts, first = [], 0
    for size, y in zip(sizes, split.outputs, strict=True):
        weight = _rows(graph, projection.weight, first, first + size)
        bias = None if projection.bias is None else _rows(graph, projection.bias, first, first + size)
        parts.append(Projection(weight, bias, y, projection.product))
        first += size
        y.shape, y.type = ir.Shape([*list(projection.x.shape or ())[:-1], size]), projection.x.type
    return parts


def _rows(graph: ir.Graph, value: ir.Value, first: int, last: int) -> ir.Value:
    tensor = value.const_value
    assert tensor is not None
    shape = [last - first, *tensor.shape.numpy()[1:]]
    return derived(graph, f"{value.name}.{first}:{last}", tensor.dtype, shape, lambda: tensor.numpy()[first:last])


def _grouped(projections: Sequence[Projection], most: int) -> Iterator[list[Projection]]:
    for first in range(0, len(projections), most):
        yield list(projections[first : first + most])


def _replace(graph: ir.Graph, together: Sequence[Projection]) -> None:
    x, parameters = together[0].x, [value for each in together for value in (each.weight, each.bias)]
    tokens, place = _as_tokens(graph, x, together[0].product), together[0].product
    node = ir.node("Linear", [tokens, *parameters], domain=DOMAIN, num_outputs=len(together))
    graph.insert_before(place, node)
    for projection, made in zip(together, node.outputs, strict=True):
        takes_over(projection.y, made if tokens is x else _like_map(graph, made, projection, place))


def _as_tokens(graph: ir.Graph, x: ir.Value, place: ir.Node) -> ir.Value:  # 4
    """x [batch, ..., K] as [batch, tokens, K]."""
    assert x.shape is not None
    if len(x.shape) == 3:
        return x
    flat = ir.node("Reshape", [x, numbers(graph, 0, -1, features(x))])
    graph.insert_before(place, flat)
    (tokens,) = flat.outputs
    tokens.shape, tokens.type = ir.Shape([x.shape[0], None, x.shape[-1]]), x.type
    return tokens


def _like_map(graph: ir.Graph, y: ir.Value, projection: Projection, place: ir.Node) -> ir.Value:  # 4
    """y [batch, tokens, N] with the axes that the projection's input has."""
    x, size = projection.x, features(projection.y)
    assert x.shape is not None
    y.shape, y.type = ir.Shape([x.shape[0], None, size]), x.type
    known = [each for each in x.shape[1:-1] if isinstance(each, int)]
    if len(known) == len(x.shape) - 2:
        sizes = numbers(graph, 0, *known, size)
    else:
        shape = ir.node("Shape", [x], {"start": 0, "end": -1})
        together = ir.node("Concat", [*shape.outputs, numbers(graph, size)], {"axis": 0})
        graph.insert_before(place, [shape, together])
        (sizes,) = together.outputs
    back = ir.node("Reshape", [y, sizes])
    graph.insert_before(place, back)
    return back.outputs[0]
