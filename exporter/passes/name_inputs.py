"""Target ``tensorrt``: absent inputs leave the nodes of our ops, and an attribute names those that stay, in order.

TensorRT's parsers do not all take an input without a name, and a plugin is told how many inputs it has, not which.
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.plugins.ops import DOMAIN, OPS

ATTRIBUTE = "inputs"


def name_inputs(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.domain != DOMAIN:
            continue
        names = OPS[node.op_type].input_names
        given = {name: value for name, value in zip(names, node.inputs, strict=False) if value is not None}
        node.resize_inputs(len(given))
        for index, value in enumerate(given.values()):
            node.replace_input_with(index, value)
        node.attributes[ATTRIBUTE] = ir.AttrString(ATTRIBUTE, ",".join(given))
