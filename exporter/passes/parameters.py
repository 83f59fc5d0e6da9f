"""New initializers of a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[np.generic]


def derived(
    graph: ir.Graph, name: str, dtype: ir.DataType, shape: Sequence[int], compute: Callable[[], Array]
) -> ir.Value:
    """The initializer of this name, computed out of others where there is none yet."""
    return initializer(graph, name, computed(name, dtype, shape, compute))


def initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """The initializer of this name, made where there is none yet."""
    return graph.initializers[name] if name in graph.initializers else new_initializer(graph, name, tensor)


def numbers(graph: ir.Graph, *values: int) -> ir.Value:
    """An int64 initializer of these numbers, one for all that need it."""
    name = "_".join(["numbers", *map(str, values)])
    return initializer(graph, name, ir.tensor(np.array(values, np.int64), name=name))


def new_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """An initializer of a name that none has yet.

    Raises:
        ValueError: one has it.
    """
    value = ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def float_scalar(graph: ir.Graph, name: str, value: float) -> ir.Value:
    """A new float32 initializer without axes.

    Raises:
        ValueError: there is one of this name.
    """
    return new_initializer(graph, name, ir.tensor(value, dtype=ir.DataType.FLOAT))


def computed(name: str, dtype: ir.DataType, shape: Sequence[int], compute: Callable[[], Array]) -> ir.LazyTensor:
    """A tensor that is computed while it is written, so that one copy of one weight is alive at a time."""

    def tensor() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(compute()), dtype=dtype, name=name)

    return ir.LazyTensor(tensor, dtype, ir.Shape(shape), name=name)
