"""Target ``tensorrt``: Gemm on flattened tokens (GPT-2) becomes MatMul and Add on [batch, seq, features].

1. Reshape to [-1, K], Gemm without factors, Reshape to [batch, seq, N]: the product is taken of [batch, seq, K].
2. Where features were split into heads, [batch, seq, H, Dh], they are put together first.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seqexport.exporter.passes.matching import made_by, only_user, rank, takes_over
from seqexport.exporter.passes.parameters import derived


def unflatten_products(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.op_type == "Gemm" and node.domain == "":
            _unflatten(model.graph, node)
    RemoveUnusedNodesPass()(model)


def _unflatten(graph: ir.Graph, gemm: ir.Node) -> None:  # 1
    flatten, restore = made_by(gemm.inputs[0], "Reshape"), only_user(gemm.outputs[0])
    if flatten is None or restore is None or restore.op_type != "Reshape" or not _is_plain(gemm):
        return
    x, weight, y = flatten.inputs[0], gemm.inputs[1], restore.outputs[0]
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if x is None or weight is None or weight.shape is None or not _same_tokens(x, y, weight):
        return
    if rank(x) != 3:
        x = _with_features_together(graph, gemm, x, weight.shape[0])
    product = ir.node("MatMul", [x, weight])
    total = product if bias is None else ir.node("Add", [product.outputs[0], bias])
    product.outputs[0].shape, product.outputs[0].type = y.shape, y.type
    graph.insert_before(gemm, [product] if bias is None else [product, total])
    takes_over(y, total.outputs[0])


def _is_plain(gemm: ir.Node) -> bool:
    """x weight + bias, of a bias that is the same for every token."""
    factors = [gemm.attributes[name].as_float() for name in ("alpha", "beta") if name in gemm.attributes]
    turned = [gemm.attributes[name].as_int() for name in ("transA", "transB") if name in gemm.attributes]
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    return all(factor == 1 for factor in factors) and not any(turned) and (bias is None or rank(bias) == 1)


def _same_tokens(x: ir.Value, y: ir.Value, weight: ir.Value) -> bool:
    """Whether x is [batch, seq, ...], K features in all, and y [batch, seq, N] of the same batch and seq."""
    if x.shape is None or y.shape is None or weight.shape is None or len(y.shape) != 3 or len(x.shape) < 3:
        return False
    features = [size for size in x.shape[2:] if isinstance(size, int)]
    is_whole = len(features) == len(x.shape) - 2 and math.prod(features) == weight.shape[0]
    return is_whole and list(x.shape[:2]) == list(y.shape[:2]) and y.shape[2] == weight.shape[1]


def _with_features_together(graph: ir.Graph, place: ir.Node, x: ir.Value, features: int | ir.SymbolicDim) -> ir.Value:
    assert x.shape is not None and isinstance(features, int)  # 2
    sizes = np.array([0, 0, features], np.int64)
    shape = derived(graph, f"together.{features}", ir.DataType.INT64, [3], lambda: sizes)
    node = ir.node("Reshape", [x, shape])
    graph.insert_before(place, node)
    (made,) = node.outputs
    made.shape, made.type = ir.Shape([*x.shape[:2], features]), x.type
    return made
