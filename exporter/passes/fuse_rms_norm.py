"""Target ``tensorrt``: a root mean square norm becomes one RmsNorm, together with the residual sum before it.

1. The norm is s * (1 / sqrt(mean(s^2) + epsilon)) * weight, over the last axis of s [batch, seq, D], and computed in
   float32 even where the model's type T is float16 or bfloat16.
2. Where s = x + residual, the node takes x and residual instead of s, and gives the sum as its second output, which
   replaces s for all its other readers. x is the addend of type T; if both are, it is the one that only this sum reads.
3. Where there is no sum, and others read s in float32 although x is of type T (as Mamba's residual stream begins), the
   second output is that float32 copy of x.

Norms of other kinds stay as they are: with a weight that is computed (Gemma's 1 + weight), with a mean taken away first
(Cohere's), and those of whose steps another node reads the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from seqexport.exporter.passes.matching import (
    FLOATS,
    constant,
    is_constant,
    made_by,
    only_user,
    other_input,
    rank,
    same_shape,
    takes_over,
)
from seqexport.exporter.passes.parameters import derived
from seqexport.plugins.ops import DOMAIN

FLOAT = ir.DataType.FLOAT
OWN_USES = 2
"""Of s: the squares and the product."""


@dataclass
class Norm:
    """A matched norm: ``s``, float32, as the squares and the product read it, and what ends it."""

    s: ir.Value
    epsilon: float
    weight: ir.Value
    y: ir.Value


def fuse_rms_norm(model: ir.Model) -> None:
    for node in list(model.graph):
        norm = _match(node) if node.op_type == "ReduceMean" and node.domain == "" else None
        weight = _weight(model.graph, norm) if norm is not None else None
        if norm is not None and weight is not None:
            _replace(model.graph, node, norm, weight)
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)


def _match(mean: ir.Node) -> Norm | None:  # 1
    squares = made_by(mean.inputs[0], "Pow")
    shift = only_user(mean.outputs[0])
    if squares is None or not is_constant(squares.inputs[1], 2) or not _is_over_last(mean):
        return None
    s = squares.inputs[0]
    if s is None or s.dtype != FLOAT or rank(s) != 3 or made_by(s, "Sub") is not None:
        return None
    if shift is None or shift.op_type != "Add":
        return None
    epsilon = constant(other_input(shift, mean.outputs[0]))
    root = only_user(shift.outputs[0])
    inverse = only_user(root.outputs[0]) if root is not None and root.op_type == "Sqrt" else None
    product = only_user(inverse.outputs[0]) if inverse is not None and inverse.op_type == "Reciprocal" else None
    if epsilon is None or epsilon.size != 1 or inverse is None or product is None or product.op_type != "Mul":
        return None
    if other_input(product, inverse.outputs[0]) is not s:
        return None
    unit = _through_cast(product.outputs[0])
    scale = only_user(unit)
    if scale is None or scale.op_type != "Mul":
        return None
    weight = other_input(scale, unit)
    y = _through_cast(scale.outputs[0])
    if weight is None or not weight.is_initializer() or not _is_per_channel(weight, s) or y.dtype not in FLOATS:
        return None
    return Norm(s, float(epsilon.reshape(())), weight, y)


def _is_over_last(mean: ir.Node) -> bool:
    axes = mean.attributes.get("axes")
    over = list(axes.as_ints()) if axes is not None else (constant(mean.inputs[1]) if len(mean.inputs) > 1 else None)
    keepdims = mean.attributes.get("keepdims")
    return over is not None and list(over) in ([-1], [2]) and (keepdims is None or keepdims.as_int() == 1)


def _is_per_channel(weight: ir.Value, s: ir.Value) -> bool:
    return weight.shape is not None and s.shape is not None and list(weight.shape) == [s.shape[-1]]


def _through_cast(value: ir.Value) -> ir.Value:
    """What a cast from float32 to another type makes of a value that only it reads; else the value."""
    node = only_user(value)
    return node.outputs[0] if node is not None and node.op_type == "Cast" and value.dtype == FLOAT else value


def _weight(graph: ir.Graph, norm: Norm) -> ir.Value | None:
    """The weight as y's type; None where it does not come from there."""
    weight, dtype = norm.weight, norm.y.dtype
    if dtype is None or weight.dtype == dtype or weight.const_value is None:
        return weight if weight.dtype == dtype else None
    tensor, narrow = weight.const_value, dtype.numpy()
    values = tensor.numpy()
    with np.errstate(over="ignore"):
        is_exact = np.array_equal(values.astype(narrow).astype(values.dtype), values)
    if not is_exact:
        return None
    name = f"{weight.name}.{dtype.short_name()}"
    return derived(graph, name, dtype, tensor.shape.numpy(), lambda: tensor.numpy().astype(narrow))


def _replace(graph: ir.Graph, place: ir.Node, norm: Norm, weight: ir.Value) -> None:
    dtype, total = norm.y.dtype, _without_cast(norm.s)
    x, residual = _addends(total, dtype)
    stream: ir.Value | None = total
    if x is None:
        if total.dtype != dtype:
            return
        x = total
        is_read = norm.s is not x and len(norm.s.uses()) > OWN_USES
        stream = norm.s if is_read else None  # 3
    wide = int(stream is not None and stream.dtype != dtype)
    node = ir.node(
        "RmsNorm", [x, weight, residual], {"epsilon": norm.epsilon, "wide": wide}, domain=DOMAIN, num_outputs=2
    )
    graph.insert_before(place, node)
    y, s = node.outputs
    takes_over(norm.y, y)
    if stream is not None:
        takes_over(stream, s)
    else:
        s.name, s.shape, s.type = f"{y.name}_sum", y.shape, y.type


def _without_cast(value: ir.Value) -> ir.Value:
    """What was cast to float32, where it was; a cast that others read stays theirs."""
    node = made_by(value, "Cast")
    return node.inputs[0] if node is not None and node.inputs[0] is not None else value


def _addends(total: ir.Value, dtype: ir.DataType | None) -> tuple[ir.Value | None, ir.Value | None]:  # 2
    node = made_by(total, "Add")
    if node is None or total.dtype not in (FLOAT, dtype):
        return None, None
    a, b = node.inputs
    if a is None or b is None or not same_shape(a, b):
        return None, None
    if total.dtype == dtype:
        return (a, b) if only_user(a) is not None and only_user(b) is None else (b, a)
    for stream, cast in ((a, b), (b, a)):
        x = _without_cast(cast)
        if x.dtype == dtype and stream.dtype == FLOAT:
            source = _without_cast(stream)
            return x, source if source.dtype == FLOAT else stream
    return None, None
