"""What the library answers to a wrong node: a status that names the op, the input, what was expected and what came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import torch

from seqexport.plugins.ops import OPS
from tests.onnxruntime.library_ops import PROVIDERS, LibraryOps, one_node, session_options
from tests.ops import test_causal_attention, test_causal_conv1d, test_selective_scan

ATTENTION, CONV, SCAN = OPS["CausalAttention"], OPS["CausalConv1d"], OPS["SelectiveScan"]
attention, conv, scan = test_causal_attention.make, test_causal_conv1d.make, test_selective_scan.make


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("op", "values", "message"),
    [
        (CONV, conv() | {"past": torch.zeros(2, 6, 4)}, r"past: expected \[B, D, K-1\] = \[2, 6, 3\], got \[2, 6, 4\]"),
        (CONV, conv() | {"weight": torch.zeros(5, 4)}, r"weight: expected \[D, K\] = \[6, 4\], got \[5, 4\]"),
        (CONV, conv() | {"weight": torch.zeros(6, 65)}, "weight: expected K in 1 to 64, got 65"),
        (CONV, conv() | {"bias": torch.zeros(6, 1)}, r"bias: expected 1 axes, got shape \[6, 1\]"),
        (CONV, conv() | {"bias": torch.zeros(6).half()}, "bias: expected float32 as the inputs before it, got float16"),
        (CONV, conv() | {"past": None}, "past is missing; it is not optional"),
        (CONV, conv() | {"seq_lens": torch.ones(2).long()}, "seq_lens: expected int32, got int64"),
        (CONV, {k: v.double() for k, v in conv(without=["seq_lens"]).items() if v is not None},
         "x: expected float32, float16 or bfloat16, got float64"),
        (SCAN, scan() | {"A": torch.zeros(6, 4).half()}, "A: expected float32, got float16"),
        (SCAN, scan() | {"B": torch.zeros(2, 5, 7, 4)}, "B: expected G in 1 to 6, got 7"),
        (SCAN, scan() | {"z": torch.zeros(2, 4, 6)}, r"z: expected \[B, L, D\] = \[2, 5, 6\], got \[2, 4, 6\]"),
        (SCAN, scan(length=0), "x: expected L in 1 to 2147483647, got 0"),
        (ATTENTION, attention(Hq=3), "key: expected Hkv that divides the Hq = 3 of query, got Hkv = 2"),
        (ATTENTION, attention(Dh=257), "query: expected Dh in 1 to 256, got 257"),
        (ATTENTION, attention(past_lens=[7, 8]), "past_lens: expected 0 to S - seq_lens = 7, got 8 in row 1"),
        (ATTENTION, attention(past_lens=[-1, 0]), "past_lens: expected 0 to S - seq_lens = 7, got -1 in row 0"),
        (ATTENTION, attention(seq_lens=[6, 0]), "seq_lens: expected 0 to L = 5, got 6 in row 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_inputs(library: Path, op: Any, values: Any, message: str) -> None:
    with pytest.raises(Exception, match=f"{op.name}: input {message}"):
        LibraryOps(library).run(op, values)


@pytest.mark.parametrize(
    ("op", "values", "attributes", "message"),
    [
        (CONV, conv(), {"activation": "gelu"}, "activation: expected 'none' or 'silu', got 'gelu'"),
        (CONV, conv(), {"activation": 1}, "activation: expected a string, got another type"),
        (SCAN, scan(), {"dt_softplus": 2}, "dt_softplus: expected 0 or 1, got 2"),
        (SCAN, scan(), {"dt_softplus": 1.5}, "dt_softplus: expected an integer, got another type"),
        (ATTENTION, attention(), {"window": -1}, r"window: expected 0 \(all\) to 2147483647, got -1"),
        (ATTENTION, attention(), {"softcap": float("nan")}, "softcap: expected a finite number, 0 or more, got nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_attributes(library: Path, op: Any, values: Any, attributes: Any, message: str) -> None:
    with pytest.raises(Exception, match=f"{op.name}: attribute {message}"):
        LibraryOps(library).run(op, values, attributes)


def test_lengths_out_of_range_are_clipped_where_no_memory_depends_on_them(library: Path) -> None:
    wild, clipped = (LibraryOps(library).run(SCAN, scan() | {"seq_lens": int32(*lens)}, {"dt_softplus": 1})
                     for lens in ((900, -3), (5, 0)))  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(wild, clipped, strict=True))


@pytest.mark.parametrize("without", [(), ("D", "z"), ("D", "z", "dt_bias", "seq_lens")], ids=str)
def test_absent_inputs_may_be_left_out_by_name(library: Path, without: Any) -> None:
    values = scan(without=without)
    given = tuple((k, v.dtype, v.dim()) for k, v in values.items() if v is not None)
    model = one_node("SelectiveScan", given, {"dt_softplus": 1}, named=True)
    session = ort.InferenceSession(model, session_options(library), providers=[PROVIDERS["cpu"]])
    outputs = session.run(None, {k: values[k].numpy() for k, _, _ in given})
    expected = LibraryOps(library).run(SCAN, values, {"dt_softplus": 1})
    assert all((a == b.numpy()).all() for a, b in zip(outputs, expected, strict=True))


def test_outputs_have_their_types_and_shapes_before_anything_runs(library: Path) -> None:
    values = scan(dtype=torch.float16)
    given = tuple((k, v.dtype, v.dim()) for k, v in values.items())
    session = ort.InferenceSession(
        one_node("SelectiveScan", given, {}), session_options(library), providers=[PROVIDERS["cpu"]]
    )
    assert [(o.type, o.shape) for o in session.get_outputs()] == [
        ("tensor(float16)", ["x_0", "x_1", "x_2"]),
        ("tensor(float)", ["past_0", "past_1", "past_2"]),
    ]
