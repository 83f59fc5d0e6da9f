"""The root mean square norms of a graph, as transformers' families compute them, and the gates beside them.

1. A norm is s * (1 / sqrt(mean(s^2) + epsilon)) * weight, over the last axis of s [batch, seq, D], in float32 even if
   the model's type T is float16 or bfloat16.
2. Or in groups: s is read as [batch, seq, groups, D / groups], and put together again before the weight or after it.
3. A gate is silu(z), z * sigmoid(z): it multiplies the norm (Falcon-H1's norm_before_gate) or, as ``gated`` tells, s.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from seqexport.exporter.passes.matching import (
    FLOATS,
    constant,
    is_constant,
    made_by,
    only_user,
    other_input,
    rank,
    same_shape,
)

FLOAT = ir.DataType.FLOAT


@dataclass
class Norm:
    """A matched norm: s, float32, that it reads ``reads`` times, and y, which it ends in; z gates y, if anything."""

    s: ir.Value
    reads: int
    groups: int
    epsilon: float
    weight: ir.Value
    z: ir.Value | None
    y: ir.Value


def norm_of(mean: ir.Node) -> Norm | None:  # 1
    squares = made_by(mean.inputs[0], "Pow")
    if squares is None or not is_constant(squares.inputs[1], 2) or squares.inputs[0] is None:
        return None
    read = squares.inputs[0]
    s, groups = _in_one(read)
    if s is None or s.dtype != FLOAT or rank(s) != 3 or made_by(s, "Sub") is not None or not _is_over_last(mean, read):
        return None
    epsilon, product = _unit(mean, read)
    unit = _in_one_again(_through_cast(product.outputs[0]), s) if product is not None else None
    scale = only_user(unit)
    if epsilon is None or scale is None or scale.op_type != "Mul" or unit is None:
        return None
    weight = _per_channel(other_input(scale, unit), unit, s)
    scaled = _in_one_again(scale.outputs[0], s)
    if weight is None or not same_shape(scaled, s):
        return None
    z, gated = _gate_after(_through_cast(scaled))
    y = _through_cast(gated)
    if y.dtype not in FLOATS or (z is not None and z.dtype != y.dtype):
        return None
    return Norm(s, 2 if read is s else 1, groups, epsilon, weight, z, y)


def gated(norm: Norm) -> tuple[ir.Value, ir.Value] | None:  # 3
    """x and z where s = x * silu(z), of y's type, is the norm's alone."""
    product = made_by(norm.s, "Mul")
    if product is None or norm.z is not None or norm.s.is_graph_output() or len(norm.s.uses()) != norm.reads:
        return None
    for gate in product.inputs:
        other, z = (other_input(product, gate), gate_of(gate)) if gate is not None else (None, None)
        if other is None or z is None:
            continue
        x = without_cast(other)
        if x.dtype == z.dtype == norm.y.dtype and same_shape(x, z):
            return x, z
    return None


def gate_of(value: ir.Value | None) -> ir.Value | None:
    """z, where a value is silu(z)."""
    product = made_by(value, "Mul")
    for z in product.inputs if product is not None else ():
        sigmoid = made_by(other_input(product, z), "Sigmoid") if z is not None and product is not None else None
        if z is not None and sigmoid is not None and sigmoid.inputs[0] is z:
            return without_cast(z)
    return None


def without_cast(value: ir.Value) -> ir.Value:
    """What was cast to float32, where it was; a cast that others read stays theirs."""
    node = made_by(value, "Cast")
    return node.inputs[0] if node is not None and node.inputs[0] is not None else value


def _in_one(read: ir.Value) -> tuple[ir.Value | None, int]:  # 2
    """[batch, seq, D] out of which so many groups are made that the norm alone reads, or which is read as it is."""
    if rank(read) != 4:
        return read, 1
    node = made_by(read, "Reshape")
    whole = node.inputs[0] if node is not None else None
    if whole is None or rank(whole) != 3 or len(read.uses()) != 2 or read.shape is None or whole.shape is None:
        return None, 1
    groups, width = read.shape[2:]
    if not isinstance(groups, int) or not isinstance(width, int) or groups * width != whole.shape[2]:
        return None, 1
    return whole if list(read.shape[:2]) == list(whole.shape[:2]) else None, groups


def _in_one_again(value: ir.Value, s: ir.Value) -> ir.Value:  # 2
    """The same with its groups put together, if that is what is done with it; then as a cast leaves it."""
    node = only_user(value)
    if rank(value) != 4 or node is None or node.op_type != "Reshape" or not same_shape(node.outputs[0], s):
        return value
    return _through_cast(node.outputs[0])


def _unit(mean: ir.Node, read: ir.Value) -> tuple[float | None, ir.Node | None]:
    """Epsilon, and the product of what is read and 1 / sqrt(mean + epsilon)."""
    shift = only_user(mean.outputs[0])
    if shift is None or shift.op_type != "Add":
        return None, None
    epsilon = constant(other_input(shift, mean.outputs[0]))
    root = only_user(shift.outputs[0])
    inverse = only_user(root.outputs[0]) if root is not None and root.op_type == "Sqrt" else None
    product = only_user(inverse.outputs[0]) if inverse is not None and inverse.op_type == "Reciprocal" else None
    if epsilon is None or epsilon.size != 1 or inverse is None or product is None or product.op_type != "Mul":
        return None, None
    if other_input(product, inverse.outputs[0]) is not read:
        return None, None
    return float(epsilon.reshape(())), product


def _is_over_last(mean: ir.Node, read: ir.Value) -> bool:
    axes = mean.attributes.get("axes")
    over = list(axes.as_ints()) if axes is not None else (constant(mean.inputs[1]) if len(mean.inputs) > 1 else None)
    keepdims, last = mean.attributes.get("keepdims"), (rank(read) or 0) - 1
    return over is not None and list(over) in ([-1], [last]) and (keepdims is None or keepdims.as_int() == 1)


def _per_channel(weight: ir.Value | None, unit: ir.Value, s: ir.Value) -> ir.Value | None:
    """The parameter [D] that a weight is, where it is one for each channel."""
    if weight is None or weight.shape is None or unit.shape is None or list(weight.shape) != list(unit.shape[2:]):
        return None
    if not weight.is_initializer():
        reshape = made_by(without_cast(weight), "Reshape")
        weight = reshape.inputs[0] if reshape is not None else None
    if weight is None or not weight.is_initializer() or weight.shape is None or s.shape is None:
        return None
    return weight if list(weight.shape) == [s.shape[-1]] else None


def _gate_after(value: ir.Value) -> tuple[ir.Value | None, ir.Value]:  # 3
    """z and the product where all that is done with a value is to multiply it by silu(z)."""
    node = only_user(value)
    z = gate_of(other_input(node, value)) if node is not None and node.op_type == "Mul" else None
    return (z, node.outputs[0]) if node is not None and z is not None and same_shape(z, value) else (None, value)


def _through_cast(value: ir.Value) -> ir.Value:
    """What a cast from float32 to another type makes of a value that only it reads; else the value."""
    node = only_user(value)
    return node.outputs[0] if node is not None and node.op_type == "Cast" and value.dtype == FLOAT else value
