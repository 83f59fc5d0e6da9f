"""Target ``tensorrt``: TopK gives its values in order, which is one of the orders that it may give them in without.

TensorRT's parsers from 10 on are documented to need it, and all of them do so whatever the graph says.
"""

from __future__ import annotations

import onnx_ir as ir


def sort_top_k(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.op_type == "TopK" and node.domain == "":
            node.attributes["sorted"] = ir.AttrInt64("sorted", 1)
