"""Rotary embeddings of target ``tensorrt``: those that RotaryQueryKey takes over, and those that stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from seqexport.exporter.passes.fuse_rotary_embedding import fuse_rotary_embedding
from tests.exporter.handmade import fused, model, names, node_of


def turned(x: str, cos: str = "c", sin: str = "s") -> str:
    """One of query and key, [batch, seq, heads, 4], as transformers turns it."""
    return f"""
        {x}_first = Transpose <perm = [0, 2, 1, 3]> ({x})
        {x}_low = Slice ({x}_first, zero, half, axis)
        {x}_high = Slice ({x}_first, half, most, axis)
        {x}_minus = Neg ({x}_high)
        {x}_crossed = Concat <axis = -1> ({x}_minus, {x}_low)
        {x}_along = Mul ({x}_first, {cos})
        {x}_across = Mul ({x}_crossed, {sin})
        {x}_sum = Add ({x}_along, {x}_across)
        {x}_turned = Transpose <perm = [0, 2, 1, 3]> ({x}_sum)
    """


PARTIAL = (
    ("_low = Slice ({x}_first", "_part = Slice ({x}_first, zero, R, axis) {x}_rest = Slice ({x}_first, R, most, axis)"
     " {x}_low = Slice ({x}_part"),
    ("_high = Slice ({x}_first, half, most", "_high = Slice ({x}_part, half, R"),
    ("_along = Mul ({x}_first", "_along = Mul ({x}_part"),
    ("{x}_turned = Transpose <perm = [0, 2, 1, 3]> ({x}_sum", "{x}_whole = Concat <axis = -1> ({x}_sum, {x}_rest)"
     " {x}_turned = Transpose <perm = [0, 2, 1, 3]> ({x}_whole"),
)  # fmt: skip


def attention(query: str, key: str, R: int = 4) -> ir.Model:
    inputs = (
        "float[batch, seq, 2, 4] q, float[batch, seq, 1, 4] k, float[batch, seq, 1, 4] v,"
        f" float[batch, seq, {R}] cos, float[batch, seq, {R}] sin, float[batch, 1, room, 4] past_key,"
        " float[batch, 1, room, 4] past_value, int32[batch] past_lens"
    )
    body = (
        f"c = Unsqueeze (cos, one) s = Unsqueeze (sin, one) {query} {key} y, present, other ="
        " seqexport.CausalAttention <scale = 0.0, window = 0, softcap = 0.0>"
        " (q_turned, k_turned, v, past_key, past_value, past_lens)"
    )
    sizes = {"zero": 0, "one": 1, "half": R // 2, "R": R, "most": 2**63 - 1, "axis": 3}
    constants = {name: np.array([size]) for name, size in sizes.items()}
    outputs = "float[batch, seq, 2, 4] y, float[batch, 1, room, 4] present"
    return model(inputs, outputs, body, **constants)


def test_query_and_key_are_turned_by_one_node() -> None:
    graph = attention(turned("q"), turned("k"))
    assert fused(graph, fuse_rotary_embedding) == {"RotaryQueryKey": 1, "CausalAttention": 1}
    assert names(node_of(graph, "RotaryQueryKey")) == ["q", "k", "cos", "sin"]


def test_the_first_features_alone_may_be_turned() -> None:
    graph = attention(*(partly(x) for x in "qk"), R=2)
    assert fused(graph, fuse_rotary_embedding) == {"RotaryQueryKey": 1, "CausalAttention": 1}


def partly(x: str) -> str:
    body = turned(x)
    for whole, part in PARTIAL:
        old, new = (text.replace("{x}", x) for text in (whole, part))
        assert old in body
        body = body.replace(old, new)
    return body


OTHER_TURNS = {
    "by other angles": (turned("q"), turned("k", cos="s", sin="c")),
    "the other way": (turned("q"), turned("k").replace("(k_minus, k_low)", "(k_low, k_minus)")),
    "unequal parts": (turned("q"), turned("k").replace("zero, half", "zero, one").replace("half, most", "one, most")),
    "of two tensors": (
        turned("q"),
        turned("k").replace("k_along = Mul (k_first", "k_norm = Neg (k_first) k_along = Mul (k_norm"),
    ),
    "the query alone": (turned("q"), "k_turned = Neg (k)"),
}


@pytest.mark.parametrize("case", OTHER_TURNS)
def test_another_turn_stays(case: str) -> None:
    query, key = OTHER_TURNS[case]
    assert "RotaryQueryKey" not in fused(attention(query, key), fuse_rotary_embedding)
