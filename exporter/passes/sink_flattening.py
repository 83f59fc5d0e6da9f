"""Pointwise ops on flattened tokens: taken on three axes, with the Reshape behind them.

An engine of TensorRT 8.6.0 gave other values to the second of two sequences where a plugin's output [batch, seq, N] was
reshaped to [-1, N] in front of pointwise ops (seen on an H200). It also lets the next product have three axes.

1. Ops of one input.
2. Ops of two, where the other is flattened likewise, or a constant that is the same for every token.
3. A Reshape back to [batch, seq, N]: nothing is left to do.
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.exporter.passes.matching import made_by, rank, takes_over
from seqexport.exporter.passes.parameters import numbers

UNARY = ("Cast", "Erf", "Exp", "Neg", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh")
BINARY = ("Add", "Div", "Mul", "Pow", "Sub")


def sink_flattening(graph: ir.Graph, node: ir.Node) -> None:
    """Apply a rule to a node, where one fits."""
    if node.domain or not node.outputs or node.outputs[0].shape is None:
        return
    if node.op_type == "Reshape":
        _restore(node)
    elif node.op_type in (*UNARY, *BINARY):
        _sink(graph, node)


def unflattened(value: ir.Value | None) -> ir.Value | None:
    """The value [batch, seq, N] of which a Reshape makes this one [batch * seq, N]."""
    reshape = made_by(value, "Reshape")
    whole = reshape.inputs[0] if reshape is not None else None
    if value is None or whole is None or whole.shape is None or rank(whole) != 3 or rank(value) != 2:
        return None
    features = whole.shape[2]
    return whole if isinstance(features, int) and value.shape is not None and value.shape[1] == features else None


def _sink(graph: ir.Graph, node: ir.Node) -> None:  # 1, 2
    y, inputs = node.outputs[0], [unflattened(value) or _of_every_token(value) for value in node.inputs]
    tokens = [list(value.shape)[:2] for value in inputs if value is not None and value.shape and len(value.shape) == 3]
    features = y.shape[1] if y.shape is not None and len(y.shape) == 2 else None
    if None in inputs or not isinstance(features, int) or not tokens or tokens[0] != tokens[-1]:
        return
    whole = ir.node(node.op_type, inputs, dict(node.attributes))
    made = whole.outputs[0]
    made.shape, made.type = ir.Shape([*tokens[0], features]), y.type
    flatten = ir.node("Reshape", [made, numbers(graph, -1, features)])
    graph.insert_after(node, [whole, flatten])
    takes_over(y, flatten.outputs[0])


def _of_every_token(value: ir.Value | None) -> ir.Value | None:
    """A constant that has no axis of tokens, or one of size 1."""
    if value is None or value.const_value is None or value.shape is None:
        return None
    return value if len(value.shape) < 2 or list(value.shape[:-1]) == [1] else None


def _restore(node: ir.Node) -> None:  # 3
    y, whole = node.outputs[0], unflattened(node.inputs[0])
    if whole is None or whole.shape is None or y.is_graph_output():
        return
    if list(whole.shape) == list(y.shape or ()):
        ir.convenience.replace_all_uses_with(y, whole)
