"""Target ``tensorrt``: rows of a table by token become one Embedding, each sequence's last valid token a LastToken.

1. Gather of a weight [V, D] by ids [batch, seq], which are made int32.
2. GatherElements of [batch, seq, D] at clip(seq_lens - 1, 0), as ``exporter/causal_lm.py`` has it traced.

TensorRT 8.6 gives a Gather to its compiler of fused layers, which takes a minute for each table of a real size, and
whose timings it cannot read back from a cache.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seqexport.exporter.passes.matching import FLOATS, is_constant, made_by, rank, takes_over
from seqexport.plugins.ops import DOMAIN

INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)


def fuse_embedding(model: ir.Model) -> None:
    narrow: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        if node.domain == "" and node.op_type == "Gather":
            _fuse_rows(model.graph, node, narrow)
        elif node.domain == "" and node.op_type == "GatherElements":
            _fuse_last_token(model.graph, node)
    RemoveUnusedNodesPass()(model)


def _fuse_rows(graph: ir.Graph, node: ir.Node, narrow: dict[ir.Value, ir.Value]) -> None:  # 1
    weight, ids = node.inputs
    axis = node.attributes.get("axis")
    if weight is None or not weight.is_initializer() or rank(weight) != 2 or (axis is not None and axis.as_int() != 0):
        return
    if weight.dtype not in FLOATS:
        return
    if ids is None or rank(ids) != 2 or ids.dtype not in INTEGERS:
        return
    if ids.dtype != ir.DataType.INT32 and ids not in narrow:
        cast = ir.node("Cast", [ids], {"to": int(ir.DataType.INT32)})
        graph.insert_before(node, cast)
        (narrow[ids],) = cast.outputs
        narrow[ids].name, narrow[ids].shape = f"{ids.name}_int32", ids.shape
        narrow[ids].dtype = ir.DataType.INT32
    _replace(graph, node, "Embedding", [weight, narrow.get(ids, ids)])


def _fuse_last_token(graph: ir.Graph, node: ir.Node) -> None:  # 2
    x, index = node.inputs
    axis = node.attributes.get("axis")
    spread = made_by(index, "Expand")
    column = made_by(spread.inputs[0], "Unsqueeze") if spread is not None else None
    clip = made_by(column.inputs[0], "Clip") if column is not None else None
    less = made_by(clip.inputs[0], "Sub") if clip is not None else None
    if x is None or rank(x) != 3 or axis is None or axis.as_int() != 1 or less is None or clip is None:
        return
    if not is_constant(less.inputs[1], 1) or not is_constant(clip.inputs[1], 0) or len(clip.inputs) > 2:
        return
    cast = made_by(less.inputs[0], "Cast")
    lens = cast.inputs[0] if cast is not None else less.inputs[0]
    made = node.outputs[0]
    if lens is None or lens.dtype != ir.DataType.INT32 or rank(lens) != 1 or made.shape is None or made.shape[1] != 1:
        return
    _replace(graph, node, "LastToken", [x, lens])


def _replace(graph: ir.Graph, node: ir.Node, op: str, inputs: list[ir.Value]) -> None:
    fused = ir.node(op, inputs, domain=DOMAIN)
    graph.insert_before(node, fused)
    takes_over(node.outputs[0], fused.outputs[0])
