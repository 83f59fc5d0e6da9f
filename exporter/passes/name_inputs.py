"""Target ``tensorrt``: facts that a plugin cannot see for itself are written into the attributes of its node.

1. Which inputs it has (``close_gaps``): a plugin is told only how many there are.
2. Which outputs it has. The last ones are taken out, and not computed, where the op can do without and nothing reads
   them; ``outputs`` then lists the names of those left.
3. Its type. TensorRT before 10 calls every tensor inside a network float32; ``T`` is the type T of the op's schema.
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.exporter.passes.absent_inputs import close_gaps
from seqexport.plugins.ops import DOMAIN, OPS

OUTPUTS, TYPE = "outputs", "T"


def name_inputs(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.domain != DOMAIN:
            continue
        op = OPS[node.op_type]
        given = close_gaps(node)  # 1
        left_out = _unread(node, op.output_names(given), op.optional_outputs)
        if left_out:  # 2
            node.resize_outputs(len(node.outputs) - left_out)
            _say(node, OUTPUTS, ",".join(op.output_names(given)[: len(node.outputs)]))
        dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
        if dtype is not None:
            _say(node, TYPE, str(dtype.numpy()))  # 3


def _unread(node: ir.Node, names: tuple[str, ...], optional: tuple[str, ...]) -> int:
    """How many of the last outputs."""
    count = 0
    for name, value in zip(reversed(names), reversed(node.outputs), strict=True):
        if name not in optional or value.uses() or value.is_graph_output():
            break
        count += 1
    return count


def _say(node: ir.Node, name: str, text: str) -> None:
    node.attributes[name] = ir.AttrString(name, text)
