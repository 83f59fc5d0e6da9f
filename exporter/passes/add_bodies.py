"""Gives every node of our ops its body in standard ONNX, as model-local functions.

1. Nodes that use an op in the same way (same optional inputs, same attributes) share one function.
2. Where a model uses an op in one way only, its function has no overload name, which every runtime reads.
3. Where it uses an op in several ways (Gemma-2's alternating windows), overload names tell the functions apart.
"""

from __future__ import annotations

from collections import defaultdict

import onnx_ir as ir

from seqexport.plugins.ops import DOMAIN, OPS, VERSION, Call


def add_bodies(model: ir.Model) -> None:
    uses: dict[str, dict[object, list[ir.Node]]] = defaultdict(lambda: defaultdict(list))
    for node in model.graph.all_nodes():
        if node.domain == DOMAIN:
            uses[node.op_type][call_of(node).key].append(node)  # 1
    opset = model.opset_imports[""]
    for name, calls in uses.items():
        for index, nodes in enumerate(calls.values()):
            overload = f"use{index}" if len(calls) > 1 else ""  # 2, 3
            body = OPS[name].function(call_of(nodes[0]), opset, overload)
            function = ir.serde.deserialize_function(body)
            model.functions[function.identifier()] = function
            for node in nodes:
                node.overload = overload
    model.opset_imports[DOMAIN] = VERSION


def call_of(node: ir.Node) -> Call:
    """How a node of one of our ops uses it."""
    op = OPS[node.op_type]
    given = {name for name, value in zip(op.input_names, node.inputs, strict=False) if value is not None}
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return Call(frozenset(given), {**op.attributes, **attributes})
