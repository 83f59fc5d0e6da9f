"""Target ``ort``: our ops in terms of what stock ONNX Runtime has fast kernels for.

1. A node moves to the domain ``seqexport.ort``, with a body of ops and layouts that ONNX Runtime is fast at.
2. Valid tokens and states come out as the op defines them; what a padded token gets is not defined here.
3. A node that it cannot do keeps its standard body.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx_ir as ir

from seqexport.exporter.passes import linear_attention
from seqexport.exporter.passes.functions import call_of, define
from seqexport.exporter.passes.ort import causal_attention, causal_conv1d, selective_scan
from seqexport.plugins.ops import DOMAIN, Call

ORT_DOMAIN = "seqexport.ort"
MICROSOFT = "com.microsoft"

LOWERINGS: dict[str, Callable[[ir.Node, Call], list[str] | None]] = {
    "CausalAttention": causal_attention.body,
    "CausalConv1d": causal_conv1d.body,
    "SelectiveScan": selective_scan.body,
    "SsdScan": partial(linear_attention.body, op=f"{MICROSOFT}.LinearAttention"),
}


def lower_for_ort(model: ir.Model) -> None:
    bodies = [(node, lines) for node in model.graph.all_nodes() if (lines := _body(node)) is not None]
    if bodies:
        define(model, ORT_DOMAIN, bodies, {"": model.opset_imports[""], MICROSOFT: 1})
        model.opset_imports[MICROSOFT] = 1


def _body(node: ir.Node) -> list[str] | None:
    lower = LOWERINGS.get(node.op_type) if node.domain == DOMAIN else None
    return lower(node, call_of(node)) if lower else None
