"""Directions of one scan: which are computed apart, which the scan runs backwards, and that the answers stay."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.passes.join_directions import join_directions
from seqexport.exporter.passes.matching import constant
from tests.exporter.handmade import fused
from tests.exporter.scans import (
    D,
    K,
    MapScan,
    Merge,
    N,
    R,
    Stack,
    added_up,
    back_and_there,
    scan_of,
    summed_first,
    summed_last,
    there_and_back,
    traced,
    viewed,
)

SHAPES = [(2, D, 9, 5), (1, D, 3, 7), (3, D, 1, 1), (1, D, 1, 6)]


def check(graph: ir.Model, module: MapScan) -> None:
    """On maps of other sizes too, the graph gives what PyTorch does."""
    add_bodies(graph)
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(shape[2]))
        (ours,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(ours, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def flips(graph: ir.Model) -> int:
    """Slices that go backwards."""
    steps = [constant(node.inputs[4]) for node in graph.graph if node.op_type == "Slice" and len(node.inputs) > 4]
    return sum(step is not None and int(step.reshape(-1)[0]) < 0 for step in steps)


@pytest.mark.parametrize(
    ("stack", "merge", "back", "turned"),
    [
        (there_and_back, summed_first, 2, 0),
        (viewed, summed_last, 2, 0),
        (there_and_back, added_up, 2, 2),  # whose orders no reader wants turned again
        (back_and_there, summed_first, 0, None),
    ],
)
def test_directions_are_computed_apart(stack: Stack, merge: Merge, back: int, turned: int | None) -> None:
    module = MapScan(stack, merge)
    graph = traced(module)
    kinds = Counter(node.op_type for node in graph.graph)
    assert kinds["MatMul"] == 2 * K
    assert scan_of(graph).attributes["reverse_groups"].as_int() == back
    assert turned is None or flips(graph) == turned
    check(graph, module)


@pytest.mark.parametrize("more", [{"offset": 0.5}, {"ragged": True}])
def test_what_is_not_followed_leaves_the_graph(more: dict[str, float]) -> None:
    module = MapScan(**more)
    graph = traced(module)
    assert Counter(node.op_type for node in graph.graph)["MatMul"] == 2
    assert scan_of(graph).attributes["reverse_groups"].as_int() == 0
    check(graph, module)


@pytest.mark.parametrize("fixed", [False, True])
def test_products_of_all_directions_become_two(fixed: bool) -> None:
    graph = traced(MapScan(), fixed=fixed)
    kinds = fused(graph, join_directions)
    assert kinds["MatMul"] == 2
    shapes = [node.inputs[1].shape for node in graph.graph if node.op_type == "MatMul" and node.inputs[1] is not None]
    assert [list(shape) for shape in shapes if shape is not None] == [[2 * D, K * (R + 2 * N)], [K * R, K * D]]


def test_products_of_other_directions_stay() -> None:
    assert fused(traced(MapScan(offset=0.5)), join_directions)["MatMul"] == 2


def test_a_map_is_normalised_as_one() -> None:
    (norm,) = [node for node in traced(MapScan()).graph if node.op_type == "LayerNormalization"]
    x = norm.inputs[0]
    assert x is not None and x.shape is not None and [str(size) for size in x.shape[:3]] == ["batch", "room", "seq"]
