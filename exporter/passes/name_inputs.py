"""Target ``tensorrt``: what a plugin is not told otherwise becomes attributes of the nodes of our ops.

1. Absent inputs leave, and ``inputs`` names those that stay, in order: TensorRT's parsers do not all take an input
   without a name, and a plugin is told how many inputs it has, not which.
2. ``T`` is the type T of the op's schema: before 10 TensorRT says float32 of every tensor inside a network.
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.plugins.ops import DOMAIN, OPS

INPUTS, TYPE = "inputs", "T"


def name_inputs(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.domain != DOMAIN:
            continue
        names = OPS[node.op_type].input_names
        given = {name: value for name, value in zip(names, node.inputs, strict=False) if value is not None}
        node.resize_inputs(len(given))
        for index, value in enumerate(given.values()):
            node.replace_input_with(index, value)
        node.attributes[INPUTS] = ir.AttrString(INPUTS, ",".join(given))  # 1
        dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
        if dtype is not None:
            node.attributes[TYPE] = ir.AttrString(TYPE, str(dtype.numpy()))  # 2
