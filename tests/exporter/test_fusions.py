"""The fusions of target ``tensorrt`` together, on whole models."""

from __future__ import annotations

from collections import Counter

import pytest

from seqexport.exporter import pipeline
from seqexport.exporter.causal_lm import discover_states
from seqexport.exporter.targets import FUSIONS
from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.quiet import quiet
from tests.conftest import Saved

FAMILIES = {
    "mamba": {"Embedding": 1, "Linear": 9, "RmsNorm": 3, "LastToken": 1},
    "mamba2": {"Embedding": 1, "Linear": 5, "RmsNorm": 5, "LastToken": 1},
    "granite_hybrid_dense": {"Embedding": 1, "Linear": 13, "RmsNorm": 9, "RotaryQueryKey": 1, "LastToken": 1},
    "mixtral": {
        "Embedding": 1,
        "Linear": 10,
        "RmsNorm": 7,
        "RotaryQueryKey": 3,
        "TopKRouter": 3,
        "Experts": 3,
        "LastToken": 1,
    },
    "gpt2": {"Embedding": 2, "Linear": 9, "LastToken": 1},
    "llama": {"Embedding": 1, "Linear": 13, "RmsNorm": 7, "RotaryQueryKey": 3, "LastToken": 1},
    "qwen3": {"Embedding": 1, "Linear": 13, "RmsNorm": 7, "RotaryQueryKey": 3, "LastToken": 1},
    "stablelm": {"Embedding": 1, "Linear": 13, "RotaryQueryKey": 3, "LastToken": 1},
}
OTHER_NORMS = {"gpt2", "qwen3", "stablelm"}
UNFUSED = {"Gather", "GatherElements", "MatMul", "Gemm", "Split", "Neg", "Transpose"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_whole_model_is_fused(checkpoint: Saved, traced_once: None, name: str) -> None:
    """That it answers as before is in ``tests/exporter/test_families.py``."""
    original = load_original(str(checkpoint(name)))
    with quiet():
        graph = pipeline.trace(original, discover_states(original), opset=20, last_only=True)
    for fuse in FUSIONS:
        fuse(graph)
    kinds = Counter(node.op_type for node in graph.graph)
    ours = {op for kind in FAMILIES.values() for op in kind}
    assert {op: count for op, count in kinds.items() if op in ours} == FAMILIES[name]
    assert not UNFUSED & kinds.keys()
    assert name in OTHER_NORMS or "ReduceMean" not in kinds
