"""Pointwise ops on flattened tokens: taken on three axes, with the Reshape behind them.

An engine of TensorRT 8.6.0 gave other values to the second of two sequences where a plugin's output [batch, seq, N] was
reshaped to [-1, N] in front of pointwise ops (seen on an H200). It also lets the next product have three axes.

1. Ops of one input.
2. Ops of two, where the other is flattened likewise, or a constant that is the same for every token.
3. A Reshape back to [batch, seq, N], or a second one to [batch * seq, N]: nothing is left to do.
4. TopKRouter and Experts, which are traced with all tokens in one row, [1, batch * seq, N].
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.exporter.passes.matching import is_constant, made_by, rank, same_shape, takes_over, without_row
from seqexport.exporter.passes.parameters import numbers
from seqexport.plugins.ops import DOMAIN

UNARY = ("Cast", "Erf", "Exp", "Neg", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh")
BINARY = ("Add", "Div", "Mul", "Pow", "Sub")
OF_ONE_ROW = {"TopKRouter": ("logits",), "Experts": ("x", "chosen", "weight")}
"""Ops of ours that are traced so, and those of their inputs that have tokens."""


def sink_flattening(graph: ir.Graph, node: ir.Node) -> None:
    """Apply a rule to a node, where one fits."""
    if node.domain == "" and node.op_type in UNARY:
        _complete(node.outputs[0], node.inputs[0])
    if not node.outputs or node.outputs[0].shape is None:
        return
    if node.domain == DOMAIN and node.op_type in OF_ONE_ROW:
        _leave_row(graph, node)
    elif node.domain:
        return
    elif node.op_type == "Reshape":
        _restore(node)
    elif node.op_type == "Squeeze":
        _restore_flat(node)
    elif node.op_type in (*UNARY, *BINARY):
        _sink(graph, node)


def _complete(y: ir.Value, x: ir.Value | None) -> None:
    """What the rewriter that makes a pointwise op leaves open: its result is like its input."""
    if x is not None and y.shape is None and y.type is None:
        y.shape, y.type = x.shape, x.type


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
    y, flat = node.outputs[0], node.inputs[0]
    whole = unflattened(flat)
    if flat is None or whole is None or y.is_graph_output():
        return
    same = next((each for each in (whole, flat) if same_shape(each, y)), None)
    if same is not None:
        ir.convenience.replace_all_uses_with(y, same)


def _leave_row(graph: ir.Graph, node: ir.Node) -> None:  # 4
    count = len(OF_ONE_ROW[node.op_type])
    wholes = [unflattened(without_row(value)) for value in node.inputs[:count]]
    tokens = [list(whole.shape)[:2] for whole in wholes if whole is not None and whole.shape is not None]
    if len(tokens) < count or any(each != tokens[0] for each in tokens):
        return
    whole = ir.node(
        node.op_type, [*wholes, *node.inputs[count:]], dict(node.attributes), domain=DOMAIN,
        num_outputs=len(node.outputs),
    )  # fmt: skip
    graph.insert_before(node, whole)
    for made, old in zip(whole.outputs, node.outputs, strict=True):
        features = old.shape[-1] if old.shape is not None else None
        assert isinstance(features, int)
        made.shape, made.type = ir.Shape([*tokens[0], features]), old.type
        flatten = ir.node("Reshape", [made, numbers(graph, -1, features)])
        flat = flatten.outputs[0]
        flat.shape, flat.type = ir.Shape(list(old.shape or ())[1:]), old.type
        row = ir.node("Unsqueeze", [flat, numbers(graph, 0)])
        graph.insert_before(node, [flatten, row])
        takes_over(old, row.outputs[0])


def _restore_flat(node: ir.Node) -> None:  # 3, of tokens that 4 put in a row
    flat = without_row(node.inputs[0]) if len(node.inputs) > 1 and is_constant(node.inputs[1], 0) else None
    if flat is not None and not node.outputs[0].is_graph_output():
        ir.convenience.replace_all_uses_with(node.outputs[0], flat)
