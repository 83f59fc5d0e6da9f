"""Parts of a projection of target ``tensorrt``: those that ops read where they lie, and those that are cut out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from seqexport.exporter.passes.name_inputs import name_inputs
from seqexport.exporter.passes.read_in_place import read_in_place
from tests.exporter.handmade import fused, model, names, node_of, values

INPUTS = "float[batch, seq, 15] p, float[batch, 6, 2] past, float[batch, 6, 4] state"
OUTPUTS = "float[batch, seq, 6] y, float[batch, 6, 2] present, float[batch, 6, 4] after"
PARTS = {
    "sizes": np.array([6, 1, 4, 4]),
    "heads": np.array([0, 0, 1, 4]),
    "weight": values(6, 3),
    "A": -np.abs(values(6, 4)),
}
CONV = "conv, present = seqexport.CausalConv1d (x, weight, , past, )"
SCAN = "y, after = seqexport.SelectiveScan (conv, conv, A, B, C, , , , state, )"
SPLIT = "x, one, b, c = Split <axis = -1> (p, sizes) B = Reshape (b, heads) C = Unsqueeze (c, at_2)"
SLICES = """
    x = Slice (p, at_0, at_6, at_2, at_1) tail = Slice (p, at_7, at_15, at_2)
    b, c = Split <axis = 2> (tail, halves) B = Reshape (b, heads) C = Unsqueeze (c, at_2)
"""


def read(body: str, outputs: str = OUTPUTS) -> tuple[ir.Model, Counter[str]]:
    constants = PARTS | {"halves": np.array([4, 4])} | {f"at_{i}": np.array([i]) for i in (0, 1, 2, 6, 7, 15)}
    graph = model(INPUTS, outputs, body, **constants)
    return graph, fused(graph, read_in_place)


def whole_numbers(node: ir.Node) -> dict[str, int]:
    return {name: a.as_int() for name, a in node.attributes.items() if a.type == ir.AttributeType.INT}


@pytest.mark.parametrize("cut", [SPLIT, SLICES], ids=["Split", "Slice"])
def test_parts_are_read_where_they_lie(cut: str) -> None:
    graph, kinds = read(f"{cut} {CONV} {SCAN}")
    assert kinds == {"CausalConv1d": 1, "SelectiveScan": 1}
    conv, scan = node_of(graph, "CausalConv1d"), node_of(graph, "SelectiveScan")
    assert names(conv)[0] == "p"
    assert whole_numbers(conv) == {"x_at": 0, "D": 6}
    assert names(scan)[:5] == ["conv", "conv", "A", "p", "p"]
    assert whole_numbers(scan) == {"B_at": 7, "C_at": 11, "G": 1, "N": 4}


@pytest.mark.parametrize("other", ["seen = Neg (one)", "seen = Identity (one)"])
def test_a_split_of_which_something_else_reads_a_part_stays(other: str) -> None:
    graph, kinds = read(f"{SPLIT} {CONV} {SCAN} {other}", f"{OUTPUTS}, float[batch, seq, 1] seen")
    assert kinds["Split"] == 1
    assert whole_numbers(node_of(graph, "CausalConv1d")) == {}


def test_a_split_of_which_a_part_is_turned_round_stays() -> None:
    """Nothing would be saved: the way back reads the part that the Split makes."""
    back = "turned = Slice (x, last, least, at_1, last) y, present = seqexport.CausalConv1d (turned, weight, , past, )"
    constants = PARTS | {"last": np.array([-1]), "least": np.array([-(2**63 - 1)]), "at_1": np.array([1])}
    there = "conv, there = seqexport.CausalConv1d (x, weight, , past, )"
    outputs = "float[batch, seq, 6] y, float[batch, 6, 2] present, float[batch, seq, 6] conv, float[batch, 6, 2] there"
    graph = model(INPUTS, outputs, f"x, one, b, c = Split <axis = -1> (p, sizes) {there} {back}", **constants)
    assert fused(graph, read_in_place) == {"Split": 1, "Slice": 1, "CausalConv1d": 2}
    assert all(whole_numbers(node) == {} for node in graph.graph if node.op_type == "CausalConv1d")


def test_an_output_of_the_graph_is_cut_out() -> None:
    _, kinds = read(f"{SPLIT} {CONV} {SCAN}", f"{OUTPUTS}, float[batch, seq, 1] one")
    assert kinds["Split"] == 1


def test_what_turns_tokens_is_no_window() -> None:
    body = """
        turned = Transpose <perm = [1, 0, 2]> (p) part = Slice (turned, at_0, at_6, at_2)
        x = Transpose <perm = [1, 0, 2]> (part)
    """
    graph, kinds = read(f"{body} {CONV} y = Identity (conv) after = Identity (state)")
    assert kinds["Slice"] == 1
    assert whole_numbers(node_of(graph, "CausalConv1d")) == {}


def test_a_sum_that_nobody_reads_is_left_out() -> None:
    graph = model(
        "float[batch, seq, 6] x",
        "float[batch, seq, 6] y, float[batch, seq, 6] total",
        "s, unread = seqexport.RmsNorm (x, gain) y, total = seqexport.RmsNorm (s, gain)",
        gain=values(6),
    )
    name_inputs(graph)
    first, second = graph.graph
    assert [value.name for value in first.outputs] == ["s"]
    assert first.attributes["outputs"].as_string() == "y"
    assert [value.name for value in second.outputs] == ["y", "total"]
    assert "outputs" not in second.attributes
