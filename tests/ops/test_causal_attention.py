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

OP = OPS["CausalAttention"]


def make(
    batch=2,
    length=5,
    Hq=4,
    Hkv=2,
    Dh=8,
    Dv=8,
    S=12,
    dtype=torch.float32,
    past_lens=None,
    seq_lens=None,
    seed=0,
):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g).to(dtype)

    return {
        "query": normal(batch, length, Hq, Dh),
        "key": normal(batch, length, Hkv, Dh),
        "value": normal(batch, length, Hkv, Dv),
        "past_key": normal(batch, Hkv, S, Dh),
        "past_value": normal(batch, Hkv, S, Dv),
        "past_lens": torch.tensor(past_lens or [0] * batch, dtype=torch.int32),
        "seq_lens": None if seq_lens is None else torch.tensor(seq_lens, dtype=torch.int32),
    }


check = functools.partial(check_op, OP)


@pytest.mark.parametrize("length", [1, 2, 63, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lengths(length, dtype):
    check(make(length=length, S=length + 9, past_lens=[3, 9], dtype=dtype), dtype)


@pytest.mark.parametrize(("Hq", "Hkv", "Dh", "Dv"), [(1, 1, 1, 1), (6, 2, 5, 7), (8, 1, 16, 16), (3, 3, 80, 64)])
def test_sizes(Hq, Hkv, Dh, Dv):
    check(make(Hq=Hq, Hkv=Hkv, Dh=Dh, Dv=Dv, past_lens=[2, 0], seq_lens=[5, 3]))


@pytest.mark.parametrize("attributes", [{"window": 1}, {"window": 3}, {"window": 100}, {"softcap": 5.0},
                                        {"scale": 0.3}, {"window": 4, "softcap": 2.0, "scale": 0.7}])  # fmt: skip
@pytest.mark.parametrize("length", [1, 9])
def test_attributes(attributes, length):
    check(make(length=length, S=20, past_lens=[7, 11]), **attributes)


@pytest.mark.parametrize("attributes", [{}, {"window": 2}])
def test_ragged_batch(attributes):
    check(make(batch=4, length=6, past_lens=[0, 6, 2, 5], seq_lens=[6, 2, 0, 4]), **attributes)


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
def test_padding_and_empty_cache_rows_are_never_read(run):
    past_lens, seq_lens = [0, 6, 12, 5], [6, 2, 0, 4]
    clean = make(batch=4, length=6, past_lens=past_lens, seq_lens=seq_lens)
    poisoned = {k: None if v is None else v.clone() for k, v in clean.items()}
    for b in range(4):
        for name in ("query", "key", "value"):
            poisoned[name][b, seq_lens[b] :] = torch.nan
        for name in ("past_key", "past_value"):
            poisoned[name][b, :, past_lens[b] :] = torch.nan
    expected, (y, present_key, _) = run(OP, clean), run(OP, poisoned)
    torch.testing.assert_close(y, expected[0], rtol=1e-6, atol=1e-6)
    for b in range(4):
        end = past_lens[b] + seq_lens[b]
        assert torch.equal(present_key[b, :, :end], expected[1][b, :, :end])
        assert present_key[b, :, end:].isnan().all()


@pytest.mark.parametrize("run", BACKENDS)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_equal_the_whole(chunk, run):
    values = make(length=130, S=130)
    true, torchs = run_float64(OP, values), run_reference(OP, values)
    outputs, state = [], {}
    for start in range(0, 130, chunk):
        part = {k: values[k][:, start : start + chunk] for k in ("query", "key", "value")}
        part["past_lens"] = torch.full((2,), start, dtype=torch.int32)
        y, key, value = run(OP, values | part | state)
        state = {"past_key": key, "past_value": value}
        outputs.append(y)
    assert_as_accurate_as_torch([torch.cat(outputs, 1), key, value], torchs, true, torch.float32)


def test_registered_with_torch():
    torch.library.opcheck(torch.ops.seqexport.causal_attention.default, tuple(make(seq_lens=[5, 2]).values()))
