"""Target ``tensorrt``: GELU's approximation by tanh as x sigmoid(2 u), which 0.5 x (1 + tanh u) is exactly.

TensorRT's Tanh has several times the error of PyTorch's in float32, its Sigmoid has not (seen in 8.6.0 on an H200).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seqexport.exporter.passes.matching import is_constant, made_by, only_user, other_input, takes_over
from seqexport.exporter.passes.parameters import initializer


def gelu_by_sigmoid(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.op_type == "Tanh" and node.domain == "" and (found := _gelu(node)) is not None:
            _rewrite(model.graph, node, *found)
    RemoveUnusedNodesPass()(model)


def _gelu(tanh: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """x, and what the last product makes of it: (x / 2) (tanh + 1)."""
    plus = only_user(tanh.outputs[0])
    if plus is None or plus.op_type != "Add" or not is_constant(other_input(plus, tanh.outputs[0]), 1):
        return None
    last = only_user(plus.outputs[0])
    half = made_by(other_input(last, plus.outputs[0]), "Mul") if last is not None and last.op_type == "Mul" else None
    if last is None or half is None:
        return None
    halved = [x for x, factor in zip(half.inputs, reversed(half.inputs), strict=True) if is_constant(factor, 0.5)]
    return (halved[0], last.outputs[0]) if halved and halved[0] is not None else None


def _rewrite(graph: ir.Graph, tanh: ir.Node, x: ir.Value, y: ir.Value) -> None:
    u, last = tanh.inputs[0], y.producer()
    assert u is not None and u.dtype is not None and last is not None
    two = initializer(graph, f"two_{u.dtype.name.lower()}", ir.tensor(np.array(2, u.dtype.numpy())))
    double = ir.node("Mul", [u, two])
    gate = ir.node("Sigmoid", [double.outputs[0]])
    product = ir.node("Mul", [x, gate.outputs[0]])
    for made in (double, gate):
        made.outputs[0].shape, made.outputs[0].type = u.shape, u.type
    graph.insert_after(last, [double, gate, product])
    takes_over(y, product.outputs[0])
