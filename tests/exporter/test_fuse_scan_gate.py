"""Gates of target ``tensorrt`` that a scan takes over, and those that stay beside it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from seqexport.exporter.passes.fuse_scan_gate import fuse_scan_gate
from tests.exporter.handmade import fused, model, names, node_of, values

MAMBA = "float[batch, seq, 6] x, float[batch, seq, 1, 4] B, float[batch, 6, 4] past, float[batch, seq, 6] z"
MAMBA2 = "float[batch, seq, 2, 3] x, float[batch, seq, 2] dt, float[batch, seq, 1, 4] B, float[batch, 2, 3, 4] past"
SELECTIVE_SCAN = "y, present = seqexport.SelectiveScan (x, x, A, B, B, , , , past, )"
SSD_SCAN = "y4, present = seqexport.SsdScan (x, dt, A, B, B, , , , past, ) y = Reshape (y4, in_one)"
GATE = "sigmoid = Sigmoid (z) gate = Mul (z, sigmoid)"
GATED = "float[batch, seq, 6] gated"


def graph_of(inputs: str, body: str, outputs: str = GATED, **constants: np.ndarray) -> ir.Model:
    given = {"A": -np.abs(values(6, 4)), "in_one": np.array([0, 0, 6]), **constants}
    graph = model(inputs, outputs, body, **given)
    x, z = graph.graph.inputs[0], graph.graph.inputs[-1]
    for node in graph.graph:  # shape inference knows no op of ours
        like = x if node.op_type.endswith("Scan") else z if node.op_type in ("Reshape", "Mul") else None
        if like is not None:
            node.outputs[0].shape, node.outputs[0].type = like.shape, like.type
    return graph


@pytest.mark.parametrize("product", ["Mul (y, gate)", "Mul (gate, y)"])
def test_a_gate_after_a_scan(product: str) -> None:
    graph = graph_of(MAMBA, f"{SELECTIVE_SCAN} {GATE} gated = {product}")
    assert fused(graph, fuse_scan_gate) == {"SelectiveScan": 1}
    assert names(node_of(graph, "SelectiveScan"))[6] == "z"


def test_a_gate_of_heads() -> None:
    body = f"{SSD_SCAN} {GATE} gated = Mul (y, gate)"
    graph = graph_of(f"{MAMBA2}, float[batch, seq, 6] z", body, A=-np.abs(values(2)))
    assert fused(graph, fuse_scan_gate) == {"SsdScan": 1, "Reshape": 2}


OTHERS = {
    "whose scan others read": ("gated = Mul (y, gate) seen = Neg (y)", "seen"),
    "that is no silu": ("other = Mul (z, z) gated = Mul (y, other) seen = Neg (gate)", "seen"),
    "of one number a token": ("one = ReduceMean (gate, last) gated = Mul (y, one) seen = Neg (gate)", "seen"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_product_stays(case: str) -> None:
    body, seen = OTHERS[case]
    graph = graph_of(
        MAMBA, f"{SELECTIVE_SCAN} {GATE} {body}", f"{GATED}, float[batch, seq, 6] {seen}", last=np.array([-1])
    )
    fused(graph, fuse_scan_gate)
    assert names(node_of(graph, "SelectiveScan"))[6] is None
