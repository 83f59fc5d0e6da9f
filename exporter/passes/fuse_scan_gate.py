"""Target ``tensorrt``: a gate that alone follows a scan (Falcon-H1 without norms) is computed by the scan.

1. What a scan without z gives is read by one product with silu(z), of the same type and shape, in float32 or not.
2. The scan's channels may be put together out of heads before it; z is then arranged into heads.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from seqexport.exporter.passes.matching import only_user, other_input, same_shape, takes_over
from seqexport.exporter.passes.parameters import derived
from seqexport.exporter.passes.rms_norm_pattern import gate_of
from seqexport.plugins.ops import DOMAIN, OPS

SCANS = ("SelectiveScan", "SsdScan")


def fuse_scan_gate(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.domain == DOMAIN and node.op_type in SCANS:
            _fuse(model.graph, node)
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)


def _fuse(graph: ir.Graph, scan: ir.Node) -> None:
    place, y = OPS[scan.op_type].input_names.index("z"), scan.outputs[0]
    whole = _in_one(y)
    product = only_user(whole)
    if scan.inputs[place] is not None or product is None or product.op_type != "Mul":
        return
    z = gate_of(other_input(product, whole))  # 1
    if z is None or z.dtype != y.dtype or not same_shape(z, whole):
        return
    scan.replace_input_with(place, z if same_shape(z, y) else _in_heads(graph, scan, z, y))
    takes_over(product.outputs[0], whole)


def _in_one(y: ir.Value) -> ir.Value:  # 2
    """y as what alone reads it has it arranged."""
    node = only_user(y)
    while node is not None and node.op_type == "Reshape" and node.inputs[0] is y:
        y = node.outputs[0]
        node = only_user(y)
    return y


def _in_heads(graph: ir.Graph, scan: ir.Node, z: ir.Value, y: ir.Value) -> ir.Value:  # 2
    assert y.shape is not None
    shape = [0, 0, *(size for size in y.shape[2:] if isinstance(size, int))]
    name = "heads." + ".".join(map(str, shape[2:]))
    heads = derived(graph, name, ir.DataType.INT64, [len(shape)], lambda: np.array(shape))
    node = ir.node("Reshape", [z, heads])
    node.outputs[0].shape, node.outputs[0].type = y.shape, y.type
    graph.insert_before(scan, node)
    return node.outputs[0]
