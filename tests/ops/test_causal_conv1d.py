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

OP = OPS["CausalConv1d"]


def make(batch=2, length=5, D=6, K=4, dtype=torch.float32, without=(), seq_lens=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    values = {
        "x": torch.randn(batch, length, D, generator=g).to(dtype),
        "weight": torch.randn(D, K, generator=g).to(dtype),
        "bias": torch.randn(D, generator=g).to(dtype),
        "past": torch.randn(batch, D, K - 1, generator=g).to(dtype),
        "seq_lens": torch.tensor(seq_lens or [length] * batch, dtype=torch.int32),
    }
    return {k: None if k in without else v for k, v in values.items()}


check = functools.partial(check_op, OP)


@pytest.mark.parametrize("length", [1, 2, 63, 500, 2049])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lengths(length, dtype):
    check(make(length=length, D=33, dtype=dtype), dtype, activation="silu")


@pytest.mark.parametrize(("D", "K"), [(1, 1), (1, 2), (33, 3), (200, 4), (64, 8)])
@pytest.mark.parametrize("activation", ["none", "silu"])
def test_sizes(D, K, activation):
    check(make(D=D, K=K, batch=3, seq_lens=[5, 1, 3]), activation=activation)


@pytest.mark.parametrize("without", [("bias",), ("seq_lens",), ("bias", "seq_lens")])
def test_optional_inputs(without):
    check(make(without=without))


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
def test_padded_tokens_change_nothing(run):
    lens = [7, 3, 1, 0]
    values = make(batch=4, length=7, seq_lens=lens)
    alone = [run(OP, _row(values, b), {}) for b in range(3)]
    for b, valid in enumerate(lens):
        values["x"][b, valid:] = torch.nan
    y, present = run(OP, values, {})
    for b, valid in enumerate(lens[:3]):
        torch.testing.assert_close(y[b, :valid], alone[b][0][0], rtol=1e-6, atol=1e-6)
        assert torch.equal(present[b], alone[b][1][0])
        assert (y[b, valid:] == 0).all()
    assert torch.equal(present[3], values["past"][3])


def _row(values, b):
    n = int(values["seq_lens"][b])
    part = {k: values[k][b : b + 1] for k in ("x", "past", "seq_lens")}
    return values | part | {"x": part["x"][:, :n]}


@pytest.mark.parametrize("run", BACKENDS)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_equal_the_whole(chunk, run):
    values = make(length=130, without=("seq_lens",))
    true, torchs = run_float64(OP, values), run_reference(OP, values)
    outputs, state = [], values["past"]
    for start in range(0, 130, chunk):
        y, state = run(OP, values | {"x": values["x"][:, start : start + chunk], "past": state})
        outputs.append(y)
    assert_as_accurate_as_torch([torch.cat(outputs, 1), state], torchs, true, torch.float32)


def test_registered_with_torch():
    torch.library.opcheck(torch.ops.seqexport.causal_conv1d.default, tuple(make().values()))
