"""Target ``ort``: our ops in terms of what stock ONNX Runtime has fast kernels for.

1. A node moves to the domain ``seqexport.ort``, with a body of ops and layouts that ONNX Runtime is fast at.
2. Valid tokens and states come out as the op defines them; what a padded token gets is not defined here.
3. A node that it cannot do keeps its standard body.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx.parser
import onnx_ir as ir

from seqexport.exporter.passes.add_bodies import call_of
from seqexport.exporter.passes.ort import causal_attention, causal_conv1d, selective_scan
from seqexport.plugins.ops import DOMAIN, OPS, Call

ORT_DOMAIN = "seqexport.ort"
MICROSOFT = "com.microsoft"

LOWERINGS: dict[str, Callable[[ir.Node, Call], list[str] | None]] = {
    "CausalAttention": causal_attention.body,
    "CausalConv1d": causal_conv1d.body,
    "SelectiveScan": selective_scan.body,
}


def lower_for_ort(model: ir.Model) -> None:
    opset = model.opset_imports[""]
    overloads: dict[tuple[str, ...], str] = {}
    for node in model.graph.all_nodes():
        lines = _body(node)
        if lines is None:
            continue
        overload = overloads.setdefault((node.op_type, *lines), f"use{len(overloads)}")
        node.domain, node.overload = ORT_DOMAIN, overload
        if node.op_identifier() not in model.functions:
            model.functions[node.op_identifier()] = _function(node.op_type, lines, opset, overload)
    if overloads:
        model.opset_imports.update({ORT_DOMAIN: 1, MICROSOFT: 1})


def _body(node: ir.Node) -> list[str] | None:
    lower = LOWERINGS.get(node.op_type) if node.domain == DOMAIN else None
    return lower(node, call_of(node)) if lower else None


def _function(name: str, lines: list[str], opset: int, overload: str) -> ir.Function:
    op = OPS[name]
    header = f'<domain: "{ORT_DOMAIN}", opset_import: ["" : {opset}, "{MICROSOFT}" : 1], overload: "{overload}">'
    signature = f"{name} ({', '.join(op.input_names)}) => ({', '.join(op.outputs)})"
    proto = onnx.parser.parse_function(header + signature + "{\n" + "\n".join(lines) + "\n}")
    proto.attribute.extend(op.attributes)
    return ir.serde.deserialize_function(proto)
