"""Folds what a graph computes from its parameters alone: transposed weights, -exp(A_log), squeezed kernels.

1. Folding is lazy: a folded tensor is computed while it is written, so that one copy of one weight is alive at a time.
2. A parameter that is also used as it is (tied embeddings) keeps its Transpose in the graph, and is stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seqexport.exporter.passes.parameters import Array, computed, new_initializer

TRANSPOSED = "transposed"
"""In the meta data of a folded matrix: the tensor that it is the transpose of."""


def fold_parameters(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.op_type not in EVALUATE or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
            continue
        sources = [value for value in node.inputs if value is not None]
        if not sources or not all(value.is_initializer() for value in sources):
            continue
        if node.op_type == "Transpose" and len(sources[0].uses()) > 1:  # 2
            continue
        fold(model.graph, node)
    RemoveUnusedNodesPass()(model)


def fold(graph: ir.Graph, node: ir.Node) -> None:
    """Put a new initializer in the place of a node of one output, whose inputs are initializers."""
    evaluate, sources = EVALUATE[node.op_type], [value for value in node.inputs if value is not None]
    tensors = [value.const_value for value in sources if value.const_value is not None]
    output = node.outputs[0]
    shape, dtype = _result_type(node, tensors[0])
    name = f"{sources[0].name}.{node.op_type.lower()}"
    if node.op_type == "Gather":
        name = f"{sources[0].name}.{int(tensors[1].numpy())}"

    def compute() -> Array:
        return evaluate(node, *(tensor.numpy() for tensor in tensors))

    value = new_initializer(graph, name, computed(name, dtype, shape, compute))  # 1
    if node.op_type == "Transpose" and len(shape) == 2:
        value.meta[TRANSPOSED] = tensors[0]
    ir.convenience.replace_all_uses_with(output, value)


def _result_type(node: ir.Node, tensor: ir.TensorProtocol) -> tuple[Sequence[int], ir.DataType]:
    """Found on an array that takes no memory, whatever its shape."""
    stand_in = np.broadcast_to(np.zeros((), np.int8), tensor.shape.numpy())
    if node.op_type == "Transpose":
        return stand_in.transpose(node.attributes["perm"].as_ints()).shape, tensor.dtype
    if node.op_type == "Gather":
        return stand_in[0].shape, tensor.dtype
    if node.op_type == "Squeeze":
        axes = node.inputs[1]
        assert axes is not None and axes.const_value is not None
        return _squeeze(node, stand_in, axes.const_value.numpy()).shape, tensor.dtype
    dtype = ir.DataType(node.attributes["to"].as_int()) if node.op_type == "Cast" else tensor.dtype
    return tensor.shape.numpy(), dtype


def _transpose(node: ir.Node, x: Array) -> Array:
    return transposed(x, node.attributes["perm"].as_ints())


def transposed(x: Array, perm: Sequence[int]) -> Array:
    """On PyTorch's threads and by its blocks, which is ten times faster than NumPy's strided copy."""
    bits = torch.from_numpy(x.view(f"i{x.itemsize}"))
    return bits.permute(*perm).contiguous().numpy().view(x.dtype)


def _squeeze(node: ir.Node, x: Array, axes: Array) -> Array:
    return x.squeeze(tuple(int(axis) for axis in axes))


def _cast(node: ir.Node, x: Array) -> Array:
    return x.astype(ir.DataType(node.attributes["to"].as_int()).numpy())


EVALUATE: dict[str, Callable[..., Array]] = {
    "Cast": _cast,
    "Exp": lambda node, x: np.exp(x),
    "Gather": lambda node, x, index: x[int(index)],
    "Neg": lambda node, x: -x,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
}
