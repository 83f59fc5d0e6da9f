"""TopKRouter through the library: what it chooses, in every dtype, on the CPU and on CUDA, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqexport.plugins.ops import OPS
from tests.onnxruntime.library_ops import LibraryOps
from tests.ops import test_top_k_router
from tests.ops.conformance import assert_as_accurate_as_torch, run_float64, run_reference

ROUTER = OPS["TopKRouter"]
router = test_top_k_router.make


def check_router(ops: LibraryOps, values: Any, **attributes: Any) -> None:
    """The choice is the reference's; every weight is at its expert."""
    chosen, weight = ops.run(ROUTER, values, attributes)
    test_top_k_router.assert_same_choice(values, chosen, attributes)
    ours, plain, true = (
        [test_top_k_router.weights_of(each, values, attributes)]
        for each in (
            (chosen, weight),
            run_reference(ROUTER, values, attributes),
            run_float64(ROUTER, values, attributes),
        )
    )
    assert_as_accurate_as_torch(ours, plain, true, torch.float32)
    for threads in (2, 1):
        again = ops.run(ROUTER, values, attributes, threads)
        assert torch.equal(again[0], chosen)
        assert torch.equal(again[1], weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [1, 2, 63, 500, 2049])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_router_lengths(ops: LibraryOps, length: int, score: str, dtype: torch.dtype) -> None:
    values = router(length=length, E=24, bias=False, dtype=dtype)
    check_router(ops, values, k=4, score=score, normalised=1, scale=2.5)


@pytest.mark.parametrize(("E", "k"), [(1, 1), (2, 2), (5, 3), (33, 1), (64, 64), (512, 22), (1000, 200)])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("bias", [False, True])
def test_router_sizes(ops: LibraryOps, E: int, k: int, score: str, bias: bool) -> None:
    check_router(ops, router(E=E, bias=bias), k=k, score=score)


@pytest.mark.parametrize(
    ("E", "groups", "kept_groups", "k"), [(8, 4, 2, 3), (8, 8, 3, 3), (12, 2, 1, 6), (256, 8, 4, 8), (9, 3, 3, 9)]
)
def test_router_groups(ops: LibraryOps, E: int, groups: int, kept_groups: int, k: int) -> None:
    values = router(E=E, bias=False, seed=3)
    check_router(ops, values, k=k, score="sigmoid", groups=groups, kept_groups=kept_groups, normalised=1)


def test_router_of_what_is_no_number(ops: LibraryOps) -> None:
    """NaN is chosen first and stays NaN; other tokens do not see it; equal scores come in the experts' order."""
    logits = torch.zeros(1, 3, 40)
    logits[0, 1, 35] = torch.nan
    chosen, weight = ops.run(ROUTER, {"logits": logits, "bias": None}, {"k": 3, "score": "sigmoid"})
    assert chosen.tolist() == [[[0, 1, 2], [35, 0, 1], [0, 1, 2]]]
    assert torch.isnan(weight[0, 1, 0])
    assert (weight[0, [0, 2]] == 0.5).all()
    _, softmax = ops.run(ROUTER, {"logits": logits, "bias": None}, {"k": 3})
    assert torch.isnan(softmax[0, 1]).all()
    assert torch.isfinite(softmax[0, [0, 2]]).all()
