"""New initializers out of those that a graph has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from seqexport.exporter.passes.fold_parameters import Array


def derived(
    graph: ir.Graph, name: str, dtype: ir.DataType, shape: Sequence[int], compute: Callable[[], Array]
) -> ir.Value:
    """An initializer that is computed while it is written, so that one copy of one weight is alive at a time."""

    def tensor() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(compute()), dtype=dtype, name=name)

    return initializer(graph, name, ir.LazyTensor(tensor, dtype, ir.Shape(shape), name=name))


def initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """The initializer of this name, made where there is none yet."""
    if name not in graph.initializers:
        shape = ir.Shape(tensor.shape.numpy())
        graph.register_initializer(
            ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
    return graph.initializers[name]
