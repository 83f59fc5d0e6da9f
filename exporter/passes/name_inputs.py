"""Target ``tensorrt``: two facts that a plugin cannot see for itself are written into the attributes of its node.

1. Which inputs it has. Optional inputs that are absent are taken out, because not every TensorRT parser accepts one
   without a name; and a plugin is told only how many inputs there are. ``inputs`` lists the names of those left.
2. Its type. TensorRT before 10 calls every tensor inside a network float32; ``T`` is the type T of the op's schema.
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
