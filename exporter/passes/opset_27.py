"""Target ``portable`` in opset 27: bodies of our ops with ONNX's own CausalConvWithState and LinearAttention in them.

A body gives all that the op defines: what those ops do not have stands around them. An op that they do not cover, or
not exactly, keeps its own.

Tracing goes up to opset 23; from there to 27 what ops had before did not change, and attributes that are new are as if
they were not there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx_ir as ir

from seqexport.exporter.passes import causal_conv_with_state, linear_attention
from seqexport.exporter.passes.functions import call_of
from seqexport.plugins.ops import DOMAIN, Call

OPSET = 27

LOWERINGS: dict[str, Callable[[ir.Node, Call], list[str] | None]] = {
    "CausalConv1d": partial(causal_conv_with_state.body, op="CausalConvWithState"),
    "SsdScan": partial(linear_attention.body, op="LinearAttention"),
}


def body_of(node: ir.Node) -> list[str] | None:
    """Of a node of one of our ops; None where it keeps its own."""
    lower = LOWERINGS.get(node.op_type)
    return None if lower is None else lower(node, call_of(node))


def kept(model: ir.Model) -> set[str]:
    """The ops of which a node keeps its own body."""
    ours = (node for node in model.graph.all_nodes() if node.domain == DOMAIN)
    return {node.op_type for node in ours if body_of(node) is None}
