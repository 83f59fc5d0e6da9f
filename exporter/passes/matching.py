"""Questions that the fusing passes ask about a graph: who makes a value, who reads it, and is it a constant.

Most give None where the answer is no, so that a pattern can be followed from node to node.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""T of our ops."""


def made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The standard node of this type that makes a value."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type == op_type else None


def permutation(value: ir.Value | None) -> list[int] | None:
    """The permutation by which a Transpose makes a value; None if none does, or without saying how."""
    node = made_by(value, "Transpose")
    perm = node.attributes.get("perm") if node is not None else None
    return list(perm.as_ints()) if perm is not None else None


def untransposed(value: ir.Value | None) -> ir.Value:
    """What the Transpose that makes a value takes."""
    node = made_by(value, "Transpose")
    assert node is not None and node.inputs[0] is not None
    return node.inputs[0]


def only_user(value: ir.Value | None) -> ir.Node | None:
    """The one node that reads a value, which is no output of the graph."""
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    return next(iter(value.uses())).node


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """What an initializer holds, if it is small."""
    tensor = value.const_value if value is not None else None
    return tensor.numpy() if tensor is not None and tensor.size <= 64 else None


def is_constant(value: ir.Value | None, *expected: float) -> bool:
    """Whether an initializer holds these numbers, one after another."""
    found = constant(value)
    return found is not None and found.reshape(-1).tolist() == list(expected)


def other_input(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Of a node with two inputs, the one that ``value`` is not."""
    first, second = node.inputs
    return second if first is value else first


def rank(value: ir.Value | None) -> int | None:
    return len(value.shape) if value is not None and value.shape is not None else None


def features(value: ir.Value) -> int:
    """The size of the last axis, which is known."""
    size = value.shape[-1] if value.shape is not None else None
    assert isinstance(size, int)
    return size


def split_sizes(node: ir.Node) -> list[int] | None:
    """Of the parts that Split cuts the last axis into."""
    value, axis = node.inputs[0] if node.op_type == "Split" and node.domain == "" else None, node.attributes.get("axis")
    if value is None or value.shape is None or axis is None or axis.as_int() not in (-1, len(value.shape) - 1):
        return None
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        sizes = constant(node.inputs[1])
        return None if sizes is None else [int(size) for size in sizes]
    whole, count = value.shape[-1], len(node.outputs)
    return [whole // count] * count if isinstance(whole, int) and whole % count == 0 else None


def without_row(value: ir.Value | None) -> ir.Value | None:
    """[tokens, N] of [1, tokens, N], as our ops of tokens alone are traced."""
    row = made_by(value, "Unsqueeze")
    return row.inputs[0] if row is not None and is_constant(row.inputs[1], 0) else None


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    return a.shape is not None and b.shape is not None and list(a.shape) == list(b.shape)


def takes_over(old: ir.Value, new: ir.Value) -> None:
    """``new`` stands where ``old`` did, under its name."""
    new.name, new.shape, new.type = old.name, old.shape, old.type
    old.name = f"{old.name}_unfused"
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
