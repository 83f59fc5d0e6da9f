"""Gives every node of our ops its body in standard ONNX, as a function of the model."""

from __future__ import annotations

import onnx_ir as ir

from seqexport.exporter.passes import opset_27
from seqexport.exporter.passes.functions import call_of, define
from seqexport.plugins.ops import DOMAIN, OPS


def add_bodies(model: ir.Model) -> None:
    opset = model.opset_imports[""]
    nodes = [node for node in model.graph.all_nodes() if node.domain == DOMAIN]
    define(model, DOMAIN, [(node, _body(node, opset)) for node in nodes], {"": opset})


def _body(node: ir.Node, opset: int) -> list[str]:
    own = opset_27.body_of(node) if opset >= opset_27.OPSET else None
    return OPS[node.op_type].body(call_of(node)) if own is None else own
