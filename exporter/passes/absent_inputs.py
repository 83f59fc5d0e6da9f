"""Optional inputs that a node of one of our ops is not given.

Not every parser of TensorRT takes an input without a name, and none a call that gives a function fewer inputs than it
has. So an absent one is in nothing that is written: neither in the node, nor in its function.
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.plugins.ops import OPS
from seqexport.plugins.ops.op import INPUTS


def given_inputs(node: ir.Node) -> dict[str, ir.Value]:
    """The inputs that are there, by their names, of a node whose inputs stand where the op has them."""
    names = OPS[node.op_type].input_names
    return {name: value for name, value in zip(names, node.inputs, strict=False) if value is not None}


def close_gaps(node: ir.Node) -> tuple[str, ...]:
    """Take absent inputs out. The attribute ``inputs`` then lists the names of those left, which are returned."""
    given = given_inputs(node)
    node.resize_inputs(len(given))
    for index, value in enumerate(given.values()):
        node.replace_input_with(index, value)
    node.attributes[INPUTS] = ir.AttrString(INPUTS, ",".join(given))
    return tuple(given)
