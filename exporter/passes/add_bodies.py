"""Gives every node of our ops its body in standard ONNX, as a function of the model."""

from __future__ import annotations

import onnx_ir as ir

from seqexport.exporter.passes.functions import call_of, define
from seqexport.plugins.ops import DOMAIN, OPS


def add_bodies(model: ir.Model) -> None:
    nodes = [node for node in model.graph.all_nodes() if node.domain == DOMAIN]
    bodies = [(node, OPS[node.op_type].body(call_of(node))) for node in nodes]
    define(model, DOMAIN, bodies, {"": model.opset_imports[""]})
