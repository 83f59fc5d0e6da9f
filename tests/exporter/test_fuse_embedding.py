"""Rows by token of target ``tensorrt``: those that Embedding and LastToken take over, and those that stay."""

from __future__ import annotations

import numpy as np
import pytest

from seqexport.exporter.passes.fuse_embedding import fuse_embedding
from tests.exporter.handmade import fused, model, values

IDS, ROWS = "int64[batch, seq] ids", "float[batch, seq, 6] y"
LAST = """
    lens = Cast <to = 7> (seq_lens)
    less = Sub (lens, one)
    clipped = Clip (less, zero)
    column = Unsqueeze (clipped, axes)
    spread = Expand (column, sizes)
    y = GatherElements <axis = 1> (x, spread)
"""
SIZES = {"one": np.array(1), "zero": np.array(0), "axes": np.array([1, 2]), "sizes": np.array([1, 1, 6])}


def test_tables_read_by_the_same_ids_share_their_cast() -> None:
    body = "a = Gather (table, ids) b = Gather (other, ids) y = Add (a, b)"
    graph = model(IDS, ROWS, body, table=values(9, 6), other=values(10, 6))
    assert fused(graph, fuse_embedding) == {"Cast": 1, "Embedding": 2, "Add": 1}


@pytest.mark.parametrize(
    ("inputs", "outputs", "body"),
    [
        ("int64[seq] ids", "float[seq, 6] y", "y = Gather (table, ids)"),
        (IDS, "float[9, batch, seq] y", "y = Gather <axis = 1> (table, ids)"),
        (IDS, "int64[batch, seq, 6] y", "y = Gather (numbers, ids)"),
    ],
    ids=["of one row", "of columns", "of integers"],
)
def test_another_gather_stays(inputs: str, outputs: str, body: str) -> None:
    graph = model(inputs, outputs, body, table=values(9, 6), numbers=np.arange(54).reshape(9, 6))
    assert "Embedding" not in fused(graph, fuse_embedding)


def test_the_last_valid_token_is_one_node() -> None:
    graph = model("float[batch, seq, 6] x, int32[batch] seq_lens", "float[batch, 1, 6] y", LAST, **SIZES)
    assert fused(graph, fuse_embedding) == {"LastToken": 1}


def test_another_token_stays() -> None:
    graph = model(
        "float[batch, seq, 6] x, int32[batch] seq_lens", "float[batch, 1, 6] y", LAST, **{**SIZES, "one": np.array(2)}
    )
    assert "LastToken" not in fused(graph, fuse_embedding)
