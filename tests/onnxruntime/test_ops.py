"""Every op through the library, in every dtype, on the CPU and on CUDA, against float64."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from seqexport.plugins.ops import OPS
from tests.onnxruntime.library_ops import LibraryOps
from tests.ops import (
    test_causal_attention,
    test_causal_conv1d,
    test_embedding,
    test_experts,
    test_last_token,
    test_linear,
    test_rms_norm,
    test_rotary_embedding,
    test_selective_scan,
    test_ssd_scan,
)
from tests.ops.conformance import assert_as_accurate_as_torch, run_float64, run_reference

ATTENTION, CONV, SCAN, SSD = OPS["CausalAttention"], OPS["CausalConv1d"], OPS["SelectiveScan"], OPS["SsdScan"]
EMBEDDING, EXPERTS, LAST, LINEAR = OPS["Embedding"], OPS["Experts"], OPS["LastToken"], OPS["Linear"]
NORM, ROTARY = OPS["RmsNorm"], OPS["RotaryQueryKey"]
attention, conv, scan = test_causal_attention.make, test_causal_conv1d.make, test_selective_scan.make
embedding, experts, last_token, linear = test_embedding.make, test_experts.make, test_last_token.make, test_linear.make
norm, rotary, ssd = test_rms_norm.make, test_rotary_embedding.make, test_ssd_scan.make
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
lengths = pytest.mark.parametrize("length", [1, 2, 63, 500, 2049])


@dtypes
@lengths
def test_causal_conv1d_lengths(ops: LibraryOps, length: int, dtype: torch.dtype) -> None:
    lens = [length, max(1, length // 3)]
    ops.check(CONV, conv(length=length, D=333, dtype=dtype, seq_lens=lens), activation="silu")


@pytest.mark.parametrize(("D", "K"), [(1, 1), (1, 2), (33, 3), (200, 4), (64, 8), (17, 64)])
@pytest.mark.parametrize("without", [(), ("bias",), ("seq_lens",), ("bias", "seq_lens")], ids=str)
def test_causal_conv1d_sizes(ops: LibraryOps, D: int, K: int, without: Any) -> None:
    values = conv(D=D, K=K, batch=3, seq_lens=[5, 1, 3], without=without)
    if ops.device == "cuda" and not 2 <= K <= 8:
        with pytest.raises(
            Exception, match=rf"CausalConv1d: input 'weight' must be .*, got \[{D}, {K}\]; K may be 2 to 8"
        ):
            ops.run(CONV, values, {"activation": "none"})
        return
    ops.check(CONV, values, activation="none")


@dtypes
@lengths
def test_selective_scan_lengths(ops: LibraryOps, length: int, dtype: torch.dtype) -> None:
    lens = [length, max(1, length // 3)]
    ops.check(SCAN, scan(length=length, D=133, N=16, dtype=dtype, seq_lens=lens), dt_softplus=1)


@pytest.mark.parametrize(("D", "N", "G"), [(1, 1, 1), (33, 16, 1), (12, 8, 3), (200, 17, 2), (64, 64, 4), (7, 256, 7)])
def test_selective_scan_sizes(ops: LibraryOps, D: int, N: int, G: int) -> None:
    lens = [64, 1, 30] * (10 if D * N < 16 else 1)  # the error of three numbers is chance
    ops.check(SCAN, scan(length=64, D=D, N=N, G=G, batch=len(lens), seq_lens=lens), dt_softplus=1)


@dtypes
@lengths
def test_selective_scan_backwards(ops: LibraryOps, length: int, dtype: torch.dtype) -> None:
    lens = [length, max(1, length // 3)]
    values = scan(length=length, D=132, N=16, G=4, dtype=dtype, seq_lens=lens)
    ops.check(SCAN, values, dt_softplus=1, reverse_groups=2)


@pytest.mark.parametrize("without", [(), ("D",), ("z",), ("dt_bias",), ("D", "z", "dt_bias", "seq_lens")], ids=str)
@pytest.mark.parametrize("dt_softplus", [0, 1])
def test_selective_scan_optional_inputs(ops: LibraryOps, without: Any, dt_softplus: int) -> None:
    ops.check(SCAN, scan(without=without, dt_softplus=dt_softplus), dt_softplus=dt_softplus)


@dtypes
@lengths
def test_ssd_scan_lengths(ops: LibraryOps, length: int, dtype: torch.dtype) -> None:
    lens = [length, max(1, length // 3)]
    ops.check(SSD, ssd(length=length, H=3, P=24, N=16, dtype=dtype, seq_lens=lens), dt_softplus=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_ssd_scan_decays_that_vanish(ops: LibraryOps, dtype: torch.dtype) -> None:
    ops.check(SSD, test_ssd_scan.steep(dtype=dtype), dt_softplus=1)


@pytest.mark.parametrize(("H", "P", "N", "G"), test_ssd_scan.SIZES)
@pytest.mark.parametrize("length", [1, 70])
def test_ssd_scan_sizes(ops: LibraryOps, H: int, P: int, N: int, G: int, length: int) -> None:
    values = ssd(length=length, H=H, P=P, N=N, G=G, batch=3, seq_lens=[length, 1, length // 2])
    ops.check(SSD, values, dt_softplus=1)


@pytest.mark.parametrize("without", [(), ("D",), ("z",), ("dt_bias",), ("D", "z", "dt_bias", "seq_lens")], ids=str)
@pytest.mark.parametrize("attributes", [{}, {"dt_softplus": 1, "dt_min": 0.05, "dt_max": 0.25}], ids=str)
def test_ssd_scan_optional_inputs(ops: LibraryOps, without: Any, attributes: dict[str, Any]) -> None:
    values = ssd(without=without, length=20, dt_softplus=attributes.get("dt_softplus", 0))
    ops.check(SSD, values, **attributes)


@dtypes
@lengths
def test_causal_attention_lengths(ops: LibraryOps, length: int, dtype: torch.dtype) -> None:
    lens = [length, max(1, length // 3)]
    ops.check(ATTENTION, attention(length=length, S=length + 90, past_lens=[3, 90], seq_lens=lens, dtype=dtype))


@pytest.mark.parametrize(
    ("Hq", "Hkv", "Dh", "Dv"), [(1, 1, 1, 1), (6, 2, 5, 7), (8, 1, 16, 16), (3, 3, 80, 64), (2, 1, 256, 250)]
)
@pytest.mark.parametrize("length", [1, 70])
def test_causal_attention_sizes(ops: LibraryOps, Hq: int, Hkv: int, Dh: int, Dv: int, length: int) -> None:
    values = attention(length=length, S=200, Hq=Hq, Hkv=Hkv, Dh=Dh, Dv=Dv, past_lens=[100, 0], seq_lens=[length, 1])
    ops.check(ATTENTION, values)


MIXED = {"window": 40, "softcap": 2.0, "scale": 0.7}


@pytest.mark.parametrize(
    "attributes", [{"window": 1}, {"window": 3}, {"window": 100}, {"softcap": 5.0}, {"scale": 0.3}, MIXED], ids=str
)
@pytest.mark.parametrize("length", [1, 90])
def test_causal_attention_attributes(ops: LibraryOps, attributes: dict[str, Any], length: int) -> None:
    ops.check(ATTENTION, attention(length=length, S=220, past_lens=[70, 130]), **attributes)


def test_causal_attention_never_reads_padding_or_the_empty_cache(ops: LibraryOps) -> None:
    past_lens, seq_lens = [0, 6, 12, 5], [6, 2, 0, 4]
    clean = attention(batch=4, length=6, past_lens=past_lens, seq_lens=seq_lens)
    poisoned = {k: None if v is None else v.clone() for k, v in clean.items()}
    for b in range(4):
        for name in ("query", "key", "value"):
            poisoned[name][b, seq_lens[b] :] = torch.nan
        for name in ("past_key", "past_value"):
            poisoned[name][b, :, past_lens[b] :] = torch.nan
    expected, ours = ops.run(ATTENTION, clean), ops.run(ATTENTION, poisoned)
    assert torch.equal(ours[0], expected[0])
    for b in range(4):
        end = past_lens[b] + seq_lens[b]
        assert torch.equal(ours[1][b, :, :end], expected[1][b, :, :end])
        assert ours[1][b, :, end:].isnan().all()


@pytest.mark.parametrize(
    ("op", "values"),
    [
        (CONV, conv(batch=4, length=12)),
        (SCAN, scan(batch=4, length=12, dt_softplus=0)),
        (SSD, ssd(batch=4, length=12, dt_softplus=0)),
    ],
)
def test_padded_tokens_change_nothing(ops: LibraryOps, op: Any, values: Any) -> None:
    lens = [12, 3, 1, 0]
    values = values | {"seq_lens": torch.tensor(lens, dtype=torch.int32)}
    expected = ops.run(op, values)
    poisoned = {k: v.clone() for k, v in values.items()}
    for name in {"x", "dt", "B", "C", "z"} & set(values):
        for b, valid in enumerate(lens):
            poisoned[name][b, valid:] = torch.nan
    ours = ops.run(op, poisoned)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    assert torch.equal(ours[1][3], values["past"][3])
    assert (ours[0][1, 3:] == 0).all()


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_selective_scan_chunks_equal_the_whole(ops: LibraryOps, chunk: int) -> None:
    """In every bit on the CPU; on CUDA, which also divides a call's time by its length, as accurately."""
    attributes = {"dt_softplus": 1}
    values = scan(length=2000 if chunk == 1 else 130, D=8)
    whole = ops.run(SCAN, values, attributes)
    outputs, state, total = [], values["past"], values["x"].shape[1]
    for start in range(0, total, chunk):
        part = {k: v[:, start : start + chunk] if k in ("x", "dt", "B", "C", "z") else v for k, v in values.items()}
        part |= {"past": state, "seq_lens": torch.full((2,), min(chunk, total - start), dtype=torch.int32)}
        y, state = ops.run(SCAN, part, attributes)
        outputs.append(y)
    chunks = [torch.cat(outputs, 1), state]
    torchs, true = run_reference(SCAN, values, attributes), run_float64(SCAN, values, attributes)
    assert_as_accurate_as_torch(chunks, torchs, true, torch.float32)
    if ops.device == "cpu":
        assert all(torch.equal(a, b) for a, b in zip(chunks, whole, strict=True))


@pytest.mark.parametrize("chunk", [1, 7, 49])
def test_ssd_scan_chunks_are_as_accurate_as_the_whole(ops: LibraryOps, chunk: int) -> None:
    attributes = {"dt_softplus": 1}
    values = ssd(length=2000 if chunk == 1 else 130)
    outputs, state, total = [], values["past"], values["x"].shape[1]
    for start in range(0, total, chunk):
        part = {k: v[:, start : start + chunk] if k in test_ssd_scan.TOKENS else v for k, v in values.items()}
        part |= {"past": state, "seq_lens": torch.full((2,), min(chunk, total - start), dtype=torch.int32)}
        y, state = ops.run(SSD, part, attributes)
        outputs.append(y)
    torchs, true = run_reference(SSD, values, attributes), run_float64(SSD, values, attributes)
    assert_as_accurate_as_torch([torch.cat(outputs, 1), state], torchs, true, torch.float32)


@dtypes
@lengths
@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("without", [("z",), ("residual", "z")], ids=str)
def test_rms_norm_lengths(ops: LibraryOps, length: int, wide: int, without: Any, dtype: torch.dtype) -> None:
    ops.check(NORM, norm(length=length, D=200, dtype=dtype, wide=wide, without=without), wide=wide)


@dtypes
@pytest.mark.parametrize("D", [1, 7, 33, 768, 2049, 20000])
def test_rms_norm_sizes(ops: LibraryOps, D: int, dtype: torch.dtype) -> None:
    ops.check(NORM, norm(D=D, dtype=dtype), epsilon=1e-5)


@dtypes
@pytest.mark.parametrize("norm_before_gate", [0, 1])
@pytest.mark.parametrize(("D", "groups"), [(33, 1), (60, 4), (7, 7), (4096, 8)])
def test_rms_norm_gates_and_groups(
    ops: LibraryOps, D: int, groups: int, norm_before_gate: int, dtype: torch.dtype
) -> None:
    values = norm(D=D, dtype=dtype, without=("residual",) if D % 2 else ())
    ops.check(NORM, values, groups=groups, norm_before_gate=norm_before_gate)


@dtypes
@lengths
def test_rotary_embedding_lengths(ops: LibraryOps, length: int, dtype: torch.dtype) -> None:
    ops.check(ROTARY, rotary(length=length, dtype=dtype))


@dtypes
@pytest.mark.parametrize(
    ("Hq", "Hkv", "Dh", "R"), [(1, 1, 2, 2), (3, 1, 10, 10), (4, 4, 64, 16), (32, 8, 80, 20), (8, 2, 128, 128)]
)
def test_rotary_embedding_sizes(ops: LibraryOps, Hq: int, Hkv: int, Dh: int, R: int, dtype: torch.dtype) -> None:
    ops.check(ROTARY, rotary(Hq=Hq, Hkv=Hkv, Dh=Dh, R=R, dtype=dtype))


@dtypes
@lengths
def test_linear_lengths(ops: LibraryOps, length: int, dtype: torch.dtype) -> None:
    ops.check(LINEAR, linear(length=length, K=96, features=(100, 32, 7), dtype=dtype))


@dtypes
@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize(
    ("K", "features"), [(1, (1,)), (7, (3, 5)), (33, (100, 1, 49)), (768, (80, 16, 16)), (2051, (48,))]
)
def test_linear_sizes(ops: LibraryOps, length: int, K: int, features: Any, dtype: torch.dtype) -> None:
    ops.check(LINEAR, linear(batch=1, length=length, K=K, features=features, dtype=dtype))


@dtypes
@pytest.mark.parametrize("features", [(24,), (24, 8), (24, 8, 5)], ids=str)
@pytest.mark.parametrize("biases", list(itertools.product([False, True], repeat=3)), ids=str)
def test_linear_optional_inputs(ops: LibraryOps, features: Any, biases: Any, dtype: torch.dtype) -> None:
    values = linear(features=features, biases=biases, dtype=dtype)
    assert [each.shape[-1] for each in ops.run(LINEAR, values)] == list(features)
    ops.check(LINEAR, values)


@dtypes
@pytest.mark.parametrize(("length", "V", "D"), [(1, 1, 1), (3, 7, 33), (500, 300, 64), (2, 5, 20000)])
def test_embedding_sizes(ops: LibraryOps, length: int, V: int, D: int, dtype: torch.dtype) -> None:
    values = embedding(length=length, V=V, D=D, dtype=dtype)
    values["ids"][0, -1], values["ids"][1, 0] = V, -1
    assert torch.equal(ops.run(EMBEDDING, values)[0].to(dtype), run_reference(EMBEDDING, values)[0])


@dtypes
@pytest.mark.parametrize("length", [1, 4, 5, 63, 1100])
def test_experts_lengths(ops: LibraryOps, length: int, dtype: torch.dtype) -> None:
    ops.check(EXPERTS, experts(length=length, D=40, F=56, dtype=dtype))


@dtypes
@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize(
    ("D", "E", "k", "F"), [(1, 1, 1, 1), (7, 3, 3, 5), (33, 512, 16, 9), (24, 2, 5, 8), (520, 4, 2, 264)]
)
def test_experts_sizes(ops: LibraryOps, D: int, E: int, k: int, F: int, length: int, dtype: torch.dtype) -> None:
    batch = max(2, 64 // D)  # so that there are more than a few numbers
    ops.check(EXPERTS, experts(batch=batch, length=length, D=D, E=E, k=k, F=F, dtype=dtype))


@pytest.mark.parametrize("gated", [0, 1])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("activation", test_experts.ACTIVATIONS)
@pytest.mark.parametrize("length", [1, 20])
def test_experts_forms(ops: LibraryOps, gated: int, biases: bool, activation: str, length: int) -> None:
    ops.check(EXPERTS, experts(length=length, gated=gated, biases=biases), gated=gated, activation=activation)


@pytest.mark.parametrize("length", [4, 40])
def test_experts_that_no_token_chose_are_not_read(ops: LibraryOps, length: int) -> None:
    """Nor is anything for an index outside, and a token with no other gives 0."""
    values = experts(batch=1, length=length, E=6, k=3)
    values["chosen"] = values["chosen"].remainder(3)
    values["chosen"][0, :3] = torch.tensor([[-1, 6, 2], [2**31 - 1, -(2**31), -5], [0, -1, 0]])
    poisoned = {k: v.clone() for k, v in values.items()}
    for name in ("gate_up", "down", "gate_up_bias", "down_bias"):
        poisoned[name][3:] = torch.nan
    ops.check(EXPERTS, values)
    (y,) = ops.run(EXPERTS, poisoned)
    assert torch.equal(y, ops.run(EXPERTS, values)[0])
    assert (y[0, 1] == 0).all()


@dtypes
@pytest.mark.parametrize("D", [1, 33, 64, 20000])
def test_last_token_sizes(ops: LibraryOps, D: int, dtype: torch.dtype) -> None:
    values = last_token(batch=5, D=D, dtype=dtype, seq_lens=[5, 1, 3, 0, 9])
    assert torch.equal(ops.run(LAST, values)[0].to(dtype), run_reference(LAST, values)[0])


PASTS = {
    "CausalAttention": lambda dtype, L: attention(length=L, S=L + 90, past_lens=[3, 90], dtype=dtype),
    "CausalConv1d": lambda dtype, L: conv(length=L, D=200, dtype=dtype),
    "SelectiveScan": lambda dtype, L: scan(length=L, D=133, N=16, dtype=dtype),
    "SsdScan": lambda dtype, L: ssd(length=L, H=5, P=12, N=16, dtype=dtype),
}


@pytest.mark.parametrize("name", PASTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("length", [1, 300])
def test_present_may_be_the_memory_of_past(ops: LibraryOps, name: str, dtype: torch.dtype, length: int) -> None:
    values, attributes = PASTS[name](dtype, length), {"dt_softplus": 1} if name.endswith("Scan") else {}
    apart, in_place = ops.run(OPS[name], values, attributes), ops.run_in_place(OPS[name], values, attributes)
    assert all(torch.equal(a, b) for a, b in zip(apart, in_place, strict=True))


def test_steps_that_forget_everything_and_steps_that_grow(ops: LibraryOps) -> None:
    values = scan(length=40, D=9, N=5, without=("dt_bias",), dt_softplus=0)
    values["dt"][:, ::7] = 300.0  # the decay is far below the least float
    attributes = {"dt_softplus": 0}
    assert_as_accurate_as_torch(
        ops.run(SCAN, values, attributes),
        run_reference(SCAN, values, attributes),
        run_float64(SCAN, values, attributes),
        torch.float32,
    )
    grown = values | {"dt": -values["dt"]}
    assert not ops.run(SCAN, grown, attributes)[0].isfinite().all()
