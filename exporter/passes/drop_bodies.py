"""Target ``tensorrt``: no function bodies, so that TensorRT's parser asks its plugin registry for our ops."""

from __future__ import annotations

import onnx_ir as ir

from seqexport.plugins.ops import DOMAIN


def drop_bodies(model: ir.Model) -> None:
    for identifier in list(model.functions):
        if identifier[0] == DOMAIN:
            del model.functions[identifier]
    for node in model.graph.all_nodes():
        node.overload = ""
