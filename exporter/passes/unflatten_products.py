"""Target ``tensorrt``: Gemm on flattened tokens becomes MatMul and Add on three axes, which fuse_linear takes.

1. Reshape to [-1, K], Gemm, Reshape to [batch, seq, N] (GPT-2): the product is taken of [batch, seq, K].
2. Where features were split into heads, [batch, seq, H, Dh], they are put together first.
3. Where tokens stay flattened, as a router of experts has them, the product is flattened in place of its input, so that
   it may share a node with others of that input; an input that never had three axes gets one in front.

Pointwise ops between products follow by the rules of sink_flattening.
"""

from __future__ import annotations

import math

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seqexport.exporter.passes.matching import made_by, only_user, rank, takes_over
from seqexport.exporter.passes.parameters import numbers
from seqexport.exporter.passes.sink_flattening import sink_flattening


def unflatten_products(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.op_type != "Gemm" or node.domain:
            sink_flattening(model.graph, node)
        elif _is_plain(node) and not _restored(model.graph, node):
            _stays_flat(model.graph, node)
    RemoveUnusedNodesPass()(model)


def _restored(graph: ir.Graph, gemm: ir.Node) -> bool:  # 1
    flatten, restore, (K, _) = made_by(gemm.inputs[0], "Reshape"), only_user(gemm.outputs[0]), _sizes(gemm)
    if flatten is None or restore is None or restore.op_type != "Reshape":
        return False
    x, y = flatten.inputs[0], restore.outputs[0]
    if x is None or not _same_tokens(x, y, _sizes(gemm)):
        return False
    total = _product(graph, gemm, x if rank(x) == 3 else _with_features_together(graph, gemm, x, K))
    total.shape, total.type = y.shape, y.type
    takes_over(y, total)
    return True


def _stays_flat(graph: ir.Graph, gemm: ir.Node) -> None:  # 3
    flat, y, (K, N) = gemm.inputs[0], gemm.outputs[0], _sizes(gemm)
    flatten = made_by(flat, "Reshape")
    x = flatten.inputs[0] if flatten is not None else None
    if flat is None or y.shape is None:
        return
    if x is not None and x.shape is not None and len(x.shape) == 3 and x.shape[2] == K:
        total = _product(graph, gemm, x)
        total.shape, total.type = ir.Shape([*x.shape[:2], N]), y.type
        again = ir.node("Reshape", [total, numbers(graph, -1, N)])
    else:
        front = numbers(graph, 0)
        x = _inserted(graph, gemm, ir.node("Unsqueeze", [flat, front]))
        x.shape, x.type = ir.Shape([1, *(flat.shape or ())]), flat.type
        total = _product(graph, gemm, x)
        total.shape, total.type = ir.Shape([1, *y.shape]), y.type
        again = ir.node("Squeeze", [total, front])
    flattened = _inserted(graph, gemm, again)
    flattened.shape, flattened.type = y.shape, y.type
    takes_over(y, flattened)


def _product(graph: ir.Graph, gemm: ir.Node, x: ir.Value) -> ir.Value:
    """x weight + bias before the Gemm."""
    weight, bias = gemm.inputs[1], gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if _is_turned(gemm):
        turned = _inserted(graph, gemm, ir.node("Transpose", [weight], {"perm": [1, 0]}))
        turned.shape, turned.type = ir.Shape(_sizes(gemm)), x.type
        weight = turned
    product = _inserted(graph, gemm, ir.node("MatMul", [x, weight]))
    return product if bias is None else _inserted(graph, gemm, ir.node("Add", [product, bias]))


def _inserted(graph: ir.Graph, place: ir.Node, node: ir.Node) -> ir.Value:
    graph.insert_before(place, node)
    return node.outputs[0]


def _is_turned(gemm: ir.Node) -> bool:
    return "transB" in gemm.attributes and bool(gemm.attributes["transB"].as_int())


def _sizes(gemm: ir.Node) -> tuple[int, int]:
    """K and N of a Gemm that is plain."""
    weight = gemm.inputs[1]
    assert weight is not None and weight.shape is not None
    first, second = (int(size) for size in weight.shape.numpy())
    return (second, first) if _is_turned(gemm) else (first, second)


def _is_plain(gemm: ir.Node) -> bool:
    """x weight + bias, of a weight that the graph stores and a bias that is the same for every token."""
    factors = [gemm.attributes[name].as_float() for name in ("alpha", "beta") if name in gemm.attributes]
    turned = "transA" in gemm.attributes and gemm.attributes["transA"].as_int()
    weight, bias = gemm.inputs[1], gemm.inputs[2] if len(gemm.inputs) > 2 else None
    stored = weight is not None and weight.is_initializer()
    return stored and all(factor == 1 for factor in factors) and not turned and (bias is None or rank(bias) == 1)


def _same_tokens(x: ir.Value, y: ir.Value, sizes: tuple[int, int]) -> bool:
    """Whether x is [batch, seq, ...], K features in all, and y [batch, seq, N] of the same batch and seq."""
    if x.shape is None or y.shape is None or len(y.shape) != 3 or len(x.shape) < 3:
        return False
    features = [size for size in x.shape[2:] if isinstance(size, int)]
    is_whole = len(features) == len(x.shape) - 2 and math.prod(features) == sizes[0]
    return is_whole and list(x.shape[:2]) == list(y.shape[:2]) and y.shape[2] == sizes[1]


def _with_features_together(graph: ir.Graph, place: ir.Node, x: ir.Value, features: int) -> ir.Value:
    assert x.shape is not None  # 2
    made = _inserted(graph, place, ir.node("Reshape", [x, numbers(graph, 0, 0, features)]))
    made.shape, made.type = ir.Shape([*x.shape[:2], features]), x.type
    return made
