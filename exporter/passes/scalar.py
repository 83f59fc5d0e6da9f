"""A constant that a pass brings along."""

from __future__ import annotations

import onnx_ir as ir


def float_scalar(graph: ir.Graph, name: str, value: float) -> ir.Value:
    """A float32 initializer without axes."""
    made = ir.Value(
        name=name,
        const_value=ir.tensor(value, dtype=ir.DataType.FLOAT),
        shape=ir.Shape([]),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    graph.register_initializer(made)
    return made
