"""Inputs that are windows of wider tensors, in every op that has them: the same bits as with tensors of their own."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from seqexport.plugins.ops import OPS, Op
from tests.onnxruntime.library_ops import PROVIDERS, LibraryOps, one_node, session_options
from tests.ops import test_causal_attention, test_causal_conv1d, test_rms_norm, test_selective_scan, test_ssd_scan
from tests.ops.conformance import Values
from tests.ops.test_descriptions import LISTED

MAKE = {
    "CausalAttention": test_causal_attention.make,
    "CausalConv1d": test_causal_conv1d.make,
    "RmsNorm": lambda **options: test_rms_norm.make(without=(), **options),
    "SelectiveScan": test_selective_scan.make,
    "SsdScan": test_ssd_scan.make,
}
ON_CPU = {stem for stem, _, cpu in LISTED if cpu == "CPU"}
NAMES = [name for name in MAKE if OPS[name].stem in ON_CPU]


def test_every_op_with_windows_is_here() -> None:
    assert {name for name, op in OPS.items() if op.windows} == MAKE.keys()


def windowed(op: Op, values: Values, first: int) -> tuple[Values, dict[str, int]]:
    """The same call, of tensors that are NaN beside each window, and the attributes that say where each is."""
    wide, attributes = dict(values), {}
    for name, sizes in op.windows.items():
        x = values[name]
        assert x is not None
        wide[name], attributes[f"{name}_at"] = widened(x, first), first
        attributes |= dict(zip(sizes, x.shape[2:], strict=True))
    return wide, attributes


def widened(x: Tensor, first: int) -> Tensor:
    width = math.prod(x.shape[2:])
    wide = torch.full((*x.shape[:2], first + width + 3), torch.nan, dtype=x.dtype)
    wide[:, :, first : first + width] = x.flatten(2)
    return wide


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("first", [0, 5, 16])
@pytest.mark.parametrize("length", [1, 70])
def test_windows(ops: LibraryOps, name: str, length: int, first: int, dtype: torch.dtype) -> None:
    sizes = {"S": length + 9, "past_lens": [3, 9]} if name == "CausalAttention" else {}
    values = MAKE[name](length=length, dtype=dtype, **sizes)
    wide, attributes = windowed(OPS[name], values, first)
    softplus = {"dt_softplus": 1} if "dt" in values else {}
    expected, ours = ops.run(OPS[name], values, softplus), ops.run(OPS[name], wide, attributes | softplus)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_shapes_are_known_before_anything_runs(library: Path) -> None:
    wide, attributes = windowed(OPS["SelectiveScan"], MAKE["SelectiveScan"](dtype=torch.float16, D=24, N=5), 4)
    given = tuple((k, v.dtype, v.dim()) for k, v in wide.items() if v is not None)
    session = ort.InferenceSession(
        one_node("SelectiveScan", given, attributes), session_options(library), providers=[PROVIDERS["cpu"]]
    )
    assert [o.shape for o in session.get_outputs()] == [["x_0", "x_1", 24], ["past_0", "past_1", "past_2"]]


SCAN = MAKE["SelectiveScan"](D=6, N=4, G=2)


@pytest.mark.parametrize(
    ("changed", "attributes", "message"),
    [
        ({}, {"x_at": 1}, "input 'x' must be [B=2, L=5, W] with W of at least 7, where its window ends, got [2, 5, 6]"),
        ({}, {"B_at": 0}, "input 'B' must be [B=2, L=5, W], got [2, 5, 2, 4]"),
        ({}, {"x_at": -1}, "attribute 'x_at' must be an integer of at least 0 and at most 1073741824, got -1"),
        ({}, {"G": 3}, "input 'B' must be [B=2, L=5, G=3, N=4], got [2, 5, 2, 4]; G is 3 by attribute 'G'"),
        (("B", "C"), {"B_at": 0, "C_at": 0}, "attribute 'G' must say what G is: input 'B', which has it, is a window"),
    ],
    ids=["narrow", "rank", "negative", "size", "unstated"],
)
def test_refused(library: Path, changed: Any, attributes: dict[str, Any], message: str) -> None:
    values = {k: widened(v, 0) if k in changed and v is not None else v for k, v in SCAN.items()}
    with pytest.raises(Exception, match=re.escape(f"SelectiveScan: {message}")):
        LibraryOps(library).run(OPS["SelectiveScan"], values, attributes)
