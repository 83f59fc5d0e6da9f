import functools

import pytest
import torch

from seqexport.plugins.errors import UserError
from seqexport.plugins.ops import OPS
from seqexport.plugins.ops.selective_scan import selective_scan
from tests.ops.conformance import (
    BACKENDS,
    assert_as_accurate_as_torch,
    check_op,
    run_float64,
    run_reference,
)

OP = OPS["SelectiveScan"]
OPTIONAL = ("D", "z", "dt_bias", "seq_lens")


def make(batch=2, length=5, D=6, N=4, G=1, dtype=torch.float32, without=(), seq_lens=None, seed=0, dt_softplus=1):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape, like=dtype):
        return torch.randn(*shape, generator=g).to(like)

    values = {
        "x": normal(batch, length, D),
        "dt": normal(batch, length, D) - 2,
        "A": -torch.rand(D, N, generator=g) * 8 - 0.1,
        "B": normal(batch, length, G, N),
        "C": normal(batch, length, G, N),
        "D": normal(D, like=torch.float32),
        "z": normal(batch, length, D),
        "dt_bias": normal(D, like=torch.float32),
        "past": normal(batch, D, N, like=torch.float32),
        "seq_lens": torch.tensor(seq_lens or [length] * batch, dtype=torch.int32),
    }
    if not dt_softplus:  # a negative step would grow without bound
        values |= {"dt": values["dt"].abs() / 8, "dt_bias": values["dt_bias"].abs() / 8}
    return {k: None if k in without else v for k, v in values.items()}


check = functools.partial(check_op, OP)


@pytest.mark.parametrize("length", [1, 2, 63, 500, 2049])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lengths(length, dtype):
    check(make(length=length, D=33, dtype=dtype), dtype, dt_softplus=1)


@pytest.mark.parametrize(("D", "N", "G"), [(1, 1, 1), (33, 16, 1), (12, 8, 3), (200, 17, 2), (64, 64, 4)])
def test_sizes(D, N, G):
    check(make(D=D, N=N, G=G, batch=3, seq_lens=[5, 1, 3]), dt_softplus=1)


@pytest.mark.parametrize("without", [(), *[(name,) for name in OPTIONAL], OPTIONAL])
@pytest.mark.parametrize("dt_softplus", [0, 1])
def test_optional_inputs(without, dt_softplus):
    check(make(without=without, dt_softplus=dt_softplus), dt_softplus=dt_softplus)


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
def test_padded_tokens_change_nothing(run):
    values = make(batch=4, length=7, seq_lens=[7, 3, 1, 0])
    alone = [run(OP, make_row(values, b), {"dt_softplus": 1}) for b in range(3)]
    for name in ("x", "dt", "B", "C", "z"):
        for b, valid in enumerate([7, 3, 1, 0]):
            values[name][b, valid:] = torch.nan
    y, present = run(OP, values, {"dt_softplus": 1})
    for b, valid in enumerate([7, 3, 1]):
        torch.testing.assert_close(y[b, :valid], alone[b][0][0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(present[b], alone[b][1][0], rtol=1e-6, atol=1e-6)
        assert (y[b, valid:] == 0).all()
    assert torch.equal(present[3], values["past"][3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("length", "D", "G", "back"), [(1, 6, 1, 1), (63, 12, 4, 2), (500, 132, 3, 1), (63, 8, 2, 9)])
def test_groups_that_run_backwards(length, D, G, back, dtype):
    lens = [length, 1, length // 2]
    values = make(batch=3, length=length, D=D, G=G, dtype=dtype, seq_lens=lens)
    check(values, dtype, dt_softplus=1, reverse_groups=back)
    check(values | {"seq_lens": None}, dtype, dt_softplus=1, reverse_groups=back)


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
def test_backwards_is_forwards_over_turned_tokens(run):
    lens = [7, 3, 1, 0]
    values = make(batch=4, length=7, D=6, G=3, seq_lens=lens)
    turned = dict(values)
    for name in ("x", "dt", "B", "C", "z"):
        turned[name] = _backwards(values[name], lens)
        for each in (values[name], turned[name]):
            for b, valid in enumerate(lens):
                each[b, valid:] = torch.nan
    y, present = run(OP, values, {"dt_softplus": 1, "reverse_groups": 1})
    forth, back = (run(OP, each, {"dt_softplus": 1}) for each in (values, turned))
    torch.testing.assert_close(y[..., :4], forth[0][..., :4], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(y[..., 4:], _backwards(back[0], lens)[..., 4:], rtol=1e-6, atol=1e-6)
    expected = torch.cat([forth[1][:, :4], back[1][:, 4:]], 1)
    torch.testing.assert_close(present, expected, rtol=1e-6, atol=1e-6)


def test_fewer_groups_than_none_are_refused():
    values = make(without=("seq_lens",))
    with pytest.raises(UserError, match="`reverse_groups` must be 0 or more, got -1"):
        selective_scan(**values, reverse_groups=-1)


def _backwards(each, lens):
    return torch.stack([torch.cat([row[:n].flip(0), row[n:]]) for row, n in zip(each, lens, strict=True)])


def make_row(values, b):
    n = int(values["seq_lens"][b])
    row = {k: v if v.dim() <= 2 and k != "seq_lens" else v[b : b + 1] for k, v in values.items()}
    return {k: v[:, :n] if k in ("x", "dt", "B", "C", "z") else v for k, v in row.items()}


@pytest.mark.parametrize("run", BACKENDS)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_equal_the_whole(chunk, run):
    values = make(length=130, D=8)
    true = run_float64(OP, values, {"dt_softplus": 1})
    torchs = run_reference(OP, values, {"dt_softplus": 1})
    outputs, state = [], values["past"]
    for start in range(0, 130, chunk):
        part = {k: v[:, start : start + chunk] if k in ("x", "dt", "B", "C", "z") else v for k, v in values.items()}
        part |= {"past": state, "seq_lens": torch.full((2,), min(chunk, 130 - start), dtype=torch.int32)}
        y, state = run(OP, part, {"dt_softplus": 1})
        outputs.append(y)
    assert_as_accurate_as_torch([torch.cat(outputs, 1), state], torchs, true, torch.float32)


@pytest.mark.parametrize("run", BACKENDS)
def test_two_thousand_decode_steps(run):
    values = make(length=2000, D=8)
    true = run_float64(OP, values, {"dt_softplus": 1})
    torchs = run_reference(OP, values, {"dt_softplus": 1})
    outputs, state, ones = [], values["past"], torch.ones(2, dtype=torch.int32)
    for t in range(2000):
        step = {k: v[:, t : t + 1] if k in ("x", "dt", "B", "C", "z") else v for k, v in values.items()}
        y, state = run(OP, step | {"past": state, "seq_lens": ones}, {"dt_softplus": 1})
        outputs.append(y)
    assert_as_accurate_as_torch([torch.cat(outputs, 1), state], torchs, true, torch.float32)


def test_registered_with_torch():
    values = make(dt_softplus=0)
    torch.library.opcheck(torch.ops.seqexport.selective_scan.default, tuple(values.values()))
