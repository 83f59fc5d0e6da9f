"""Target ``tensorrt``: a root mean square norm becomes one RmsNorm, with the residual sum before it, or with its gate.

1. The norm, its groups and a gate after it are those of ``rms_norm_pattern.py``.
2. Where s = x * silu(z) is read by the norm alone, the node takes x and z instead of s.
3. Where s = x + residual, the node takes x and residual instead of s, and gives the sum as its second output, which
   replaces s for all its other readers. x is the addend of type T; if both are, it is the one that only this sum reads.
4. Where there is no sum, and others read s in float32 although x is of type T (as Mamba's residual stream begins), the
   second output is that float32 copy of x.

Norms of other kinds stay as they are: with a weight that is computed (Gemma's 1 + weight), with a mean taken away first
(Cohere's), and those of whose steps another node reads the result.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from seqexport.exporter.passes.matching import made_by, only_user, same_shape, takes_over
from seqexport.exporter.passes.parameters import derived
from seqexport.exporter.passes.rms_norm_pattern import FLOAT, Norm, gated, norm_of, without_cast
from seqexport.plugins.ops import DOMAIN


def fuse_rms_norm(model: ir.Model) -> None:
    for node in list(model.graph):
        norm = norm_of(node) if node.op_type == "ReduceMean" and node.domain == "" else None  # 1
        weight = _weight(model.graph, norm) if norm is not None else None
        if norm is not None and weight is not None:
            _replace(model.graph, node, norm, weight)
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)


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
    residual: ir.Value | None
    stream: ir.Value | None
    dtype, total = norm.y.dtype, without_cast(norm.s)
    x, residual, z, stream = total, None, norm.z, None
    if pair := gated(norm):  # 2
        x, z = pair
    elif added := _addends(total, dtype):
        x, residual = added
        stream = total
    elif total.dtype != dtype:
        return
    elif norm.s is not total and len(norm.s.uses()) > norm.reads:  # 4
        stream = norm.s
    attributes = {
        "epsilon": norm.epsilon,
        "groups": norm.groups,
        "norm_before_gate": int(norm.z is not None),
        "wide": int(stream is not None and stream.dtype != dtype),
    }
    node = ir.node("RmsNorm", [x, weight, residual, z], attributes, domain=DOMAIN, num_outputs=2)
    graph.insert_before(place, node)
    y, s = node.outputs
    takes_over(norm.y, y)
    if stream is not None:
        takes_over(stream, s)
    else:
        s.name, s.shape, s.type = f"{y.name}_sum", y.shape, y.type


def _addends(total: ir.Value, dtype: ir.DataType | None) -> tuple[ir.Value, ir.Value] | None:  # 3
    node = made_by(total, "Add")
    if node is None or total.dtype not in (FLOAT, dtype):
        return None
    a, b = node.inputs
    if a is None or b is None or not same_shape(a, b):
        return None
    if total.dtype == dtype:
        return (a, b) if only_user(a) is not None and only_user(b) is None else (b, a)
    for stream, cast in ((a, b), (b, a)):
        x = without_cast(cast)
        if x.dtype == dtype and stream.dtype == FLOAT:
            source = without_cast(stream)
            return x, source if source.dtype == FLOAT else stream
    return None
