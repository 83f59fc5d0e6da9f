"""Target ``tensorrt``: the products of a scan's K directions become two, however many directions there are.

On a GPU a launch costs more than zeros in a matrix: at one image VMamba's were most of the time. What part_directions
leaves, x_k @ W_k cut into parts that are put together by part, and the first of these @ S_k:

1. The products with W_k become one of all x, side by side, with a matrix whose blocks are the W_k, in the order of the
   parts; so each part of all directions comes out in one piece.
2. The products with S_k become one of that piece with a matrix that has the S_k along its diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from seqexport.exporter.passes.matching import features, made_by, rank, split_sizes
from seqexport.exporter.passes.parameters import Array, derived, numbers
from seqexport.plugins.ops import DOMAIN, OPS

DT, B, C = (OPS["SelectiveScan"].input_names.index(name) for name in ("dt", "B", "C"))


def join_directions(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.domain == DOMAIN and node.op_type == "SelectiveScan":
            found = _found(node)
            if found is not None:
                _join(model.graph, node, found)
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)


@dataclass
class _Directions:
    """Of each: ``x`` [B,L,D], ``matrices`` [D,R+2N], which ``sizes`` cut into R, N and N, and ``steps`` [R,D]."""

    x: list[ir.Value]
    matrices: list[ir.Value]
    sizes: list[int]
    steps: list[ir.Value]


def _found(scan: ir.Node) -> _Directions | None:
    products = [_product(value) for value in _joined(scan.inputs[DT])]
    cuts = [made_by(product[0], "Split") if product is not None else None for product in products]
    whole = [_product(cut.inputs[0]) if cut is not None else None for cut in cuts]
    sizes = [split_sizes(cut) if cut is not None else None for cut in cuts]
    steps, mixes = ([each for each in every if each is not None] for every in (products, whole))
    known = [each for each in sizes if each is not None]
    if not steps or len(mixes) < len(cuts) or any(each != known[0] or len(each) != 3 for each in known):
        return None
    parts = [(cut.outputs[0], cut.outputs[1], cut.outputs[2]) for cut in cuts if cut is not None]
    read = [tuple(step[0] for step in steps), tuple(_joined(_ungrouped(scan, B))), tuple(_joined(_ungrouped(scan, C)))]
    if read != list(zip(*parts, strict=True)):
        return None
    return _Directions([x for x, _ in mixes], [w for _, w in mixes], known[0], [w for _, w in steps])


def _joined(value: ir.Value | None) -> list[ir.Value]:
    """What is put together along channels; nothing where that is not how the value is made."""
    concat = made_by(value, "Concat")
    if concat is None or value is None or rank(value) != 3 or concat.attributes["axis"].as_int() != 2:
        return []
    return [each for each in concat.inputs if each is not None]


def _ungrouped(scan: ir.Node, index: int) -> ir.Value | None:
    reshape = made_by(scan.inputs[index], "Reshape")
    return reshape.inputs[0] if reshape is not None else None


def _product(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """Tokens and the stored matrix of which a value is the product."""
    product = made_by(value, "MatMul")
    x, matrix = product.inputs if product is not None else (None, None)
    stored = x is not None and matrix is not None and matrix.is_initializer() and rank(matrix) == 2
    return (x, matrix) if stored and x is not None and matrix is not None else None


def _join(graph: ir.Graph, scan: ir.Node, found: _Directions) -> None:
    inputs = list(dict.fromkeys(found.x))
    places = [inputs.index(x) for x in found.x]
    matrix = _blocks(graph, "mixed", found.matrices, places, found.sizes)  # 1
    K, (R, N, _) = len(found.x), found.sizes
    wide = _put(graph, scan, "Concat", inputs, sum(features(x) for x in inputs), axis=2)
    product = _put(graph, scan, "MatMul", [wide, matrix], K * sum(found.sizes))
    split = ir.node("Split", [product, numbers(graph, K * R, K * N, K * N)], {"axis": 2}, num_outputs=3)
    graph.insert_before(scan, split)
    for part, size in zip(split.outputs, found.sizes, strict=True):
        part.shape, part.type = _shape(product, K * size), product.type
    low, *groups = split.outputs
    steps = _blocks(graph, "stepped", found.steps, list(range(K)), [features(found.steps[0])])  # 2
    scan.replace_input_with(DT, _put(graph, scan, "MatMul", [low, steps], K * features(found.steps[0])))
    for index, part in zip((B, C), groups, strict=True):
        reshape = made_by(scan.inputs[index], "Reshape")
        assert reshape is not None
        reshape.replace_input_with(0, part)


def _blocks(
    graph: ir.Graph, name: str, matrices: Sequence[ir.Value], places: Sequence[int], sizes: Sequence[int]
) -> ir.Value:
    """Matrices in rows by ``places``, and in columns part after part of ``sizes``, those of all directions together."""
    first, tensors = matrices[0], [each.const_value for each in matrices]
    assert first.shape is not None and first.dtype is not None
    rows, K = int(first.shape[0]), len(matrices)  # type: ignore[arg-type]
    shape = [rows * (max(places) + 1), K * sum(sizes)]

    def compute() -> Array:
        arrays = [tensor.numpy() for tensor in tensors if tensor is not None]
        whole, column, begin = np.zeros(shape, arrays[0].dtype), 0, 0
        for size in sizes:
            for array, place in zip(arrays, places, strict=True):
                whole[place * rows : (place + 1) * rows, column : column + size] = array[:, begin : begin + size]
                column += size
            begin += size
        return whole

    return derived(graph, f"{first.name}.{name}", first.dtype, shape, compute)


def _put(
    graph: ir.Graph, place: ir.Node, op_type: str, inputs: Sequence[ir.Value], channels: int, **attributes: int
) -> ir.Value:
    """[B,L,channels] of a node before a place, unless it would join one value alone."""
    if op_type == "Concat" and len(inputs) == 1:
        return inputs[0]
    node = ir.node(op_type, inputs, attributes)
    graph.insert_before(place, node)
    made = node.outputs[0]
    made.shape, made.type = _shape(inputs[0], channels), inputs[0].type
    return made


def _shape(like: ir.Value, channels: int) -> ir.Shape:
    assert like.shape is not None
    return ir.Shape([*like.shape[:2], channels])
