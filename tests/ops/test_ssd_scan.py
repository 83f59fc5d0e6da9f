import functools

import pytest
import torch

from seqexport.plugins.ops import OPS
from tests.ops.conformance import (
    BACKENDS,
    assert_as_accurate_as_torch,
    check_op,
    run_float64,
    run_reference,
)

OP = OPS["SsdScan"]
OPTIONAL = ("D", "z", "dt_bias", "seq_lens")
SIZES = [
    (1, 1, 1, 1),
    (4, 7, 16, 2),
    (2, 64, 128, 1),
    (6, 80, 100, 3),
    (2, 128, 256, 2),
    (1, 256, 128, 1),
    (3, 5, 2, 3),
]
TOKENS = ("x", "dt", "B", "C", "z")


def make(
    batch=2, length=5, H=4, P=6, N=4, G=1, dtype=torch.float32, without=(), seq_lens=None, seed=0, dt_softplus=1
):  # fmt: skip
    g = torch.Generator().manual_seed(seed)

    def normal(*shape, like=dtype):
        return torch.randn(*shape, generator=g).to(like)

    values = {
        "x": normal(batch, length, H, P),
        "dt": normal(batch, length, H) - 2,
        "A": -torch.rand(H, generator=g) * 8 - 0.1,
        "B": normal(batch, length, G, N),
        "C": normal(batch, length, G, N),
        "D": normal(H, like=torch.float32),
        "z": normal(batch, length, H, P),
        "dt_bias": normal(H, like=torch.float32),
        "past": normal(batch, H, P, N, like=torch.float32),
        "seq_lens": torch.tensor(seq_lens or [length] * batch, dtype=torch.int32),
    }
    if not dt_softplus:  # a negative step would grow without bound
        values |= {"dt": values["dt"].abs() / 8, "dt_bias": values["dt_bias"].abs() / 8}
    return {k: None if k in without else v for k, v in values.items()}


check = functools.partial(check_op, OP)


@pytest.mark.parametrize("length", [1, 2, 63, 500, 2049])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lengths(length, dtype):
    check(make(length=length, H=3, P=24, dtype=dtype), dtype, dt_softplus=1)


@pytest.mark.parametrize(("H", "P", "N", "G"), SIZES)
def test_sizes(H, P, N, G):
    rows = 1 + 64 // (H * P * N)  # so that there are more than a few states
    check(make(length=70, H=H, P=P, N=N, G=G, batch=3 * rows, seq_lens=[70, 1, 33] * rows), dt_softplus=1)


@pytest.mark.parametrize("without", [(), *[(name,) for name in OPTIONAL], OPTIONAL])
@pytest.mark.parametrize("dt_softplus", [0, 1])
def test_optional_inputs(without, dt_softplus):
    check(make(without=without, dt_softplus=dt_softplus), dt_softplus=dt_softplus)


@pytest.mark.parametrize("limits", [{"dt_min": 0.1}, {"dt_max": 0.5}, {"dt_min": 0.05, "dt_max": 0.25}])
def test_limits_of_the_step(limits):
    check(make(length=40), dt_softplus=1, **limits)


def steep(length=130, dtype=torch.float32):
    """Decays that float32 holds through a chunk, that become subnormal in it, and that vanish from token to token."""
    values = make(length=length, H=6, P=24, N=16, dtype=dtype, seq_lens=[length, length - 7])
    return values | {"A": -torch.tensor([0.1, 3.0, 8.0, 16.0, 60.0, 600.0])}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_decays_that_vanish(dtype):
    check(steep(dtype=dtype), dtype, dt_softplus=1)


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
def test_padded_tokens_change_nothing(run):
    values = make(batch=4, length=7, seq_lens=[7, 3, 1, 0])
    alone = [run(OP, make_row(values, b), {"dt_softplus": 1}) for b in range(3)]
    for name in TOKENS:
        for b, valid in enumerate([7, 3, 1, 0]):
            values[name][b, valid:] = torch.nan
    y, present = run(OP, values, {"dt_softplus": 1})
    for b, valid in enumerate([7, 3, 1]):
        torch.testing.assert_close(y[b, :valid], alone[b][0][0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(present[b], alone[b][1][0], rtol=1e-6, atol=1e-6)
        assert (y[b, valid:] == 0).all()
    assert torch.equal(present[3], values["past"][3])


def make_row(values, b):
    n = int(values["seq_lens"][b])
    row = {k: v if k in ("A", "D", "dt_bias") else v[b : b + 1] for k, v in values.items()}
    return {k: v[:, :n] if k in TOKENS else v for k, v in row.items()}


@pytest.mark.parametrize("run", BACKENDS)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_equal_the_whole(chunk, run):
    values = make(length=130)
    true = run_float64(OP, values, {"dt_softplus": 1})
    torchs = run_reference(OP, values, {"dt_softplus": 1})
    outputs, state = [], values["past"]
    for start in range(0, 130, chunk):
        part = {k: v[:, start : start + chunk] if k in TOKENS else v for k, v in values.items()}
        part |= {"past": state, "seq_lens": torch.full((2,), min(chunk, 130 - start), dtype=torch.int32)}
        y, state = run(OP, part, {"dt_softplus": 1})
        outputs.append(y)
    assert_as_accurate_as_torch([torch.cat(outputs, 1), state], torchs, true, torch.float32)


@pytest.mark.parametrize("run", BACKENDS)
def test_two_thousand_decode_steps(run):
    values = make(length=2000)
    true = run_float64(OP, values, {"dt_softplus": 1})
    torchs = run_reference(OP, values, {"dt_softplus": 1})
    outputs, state, ones = [], values["past"], torch.ones(2, dtype=torch.int32)
    for t in range(2000):
        step = {k: v[:, t : t + 1] if k in TOKENS else v for k, v in values.items()}
        y, state = run(OP, step | {"past": state, "seq_lens": ones}, {"dt_softplus": 1})
        outputs.append(y)
    assert_as_accurate_as_torch([torch.cat(outputs, 1), state], torchs, true, torch.float32)


def test_registered_with_torch():
    values = make(dt_softplus=0)
    torch.library.opcheck(torch.ops.seqexport.ssd_scan.default, tuple(values.values()))
