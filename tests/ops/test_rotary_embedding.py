import functools

import pytest
import torch

from seqexport.plugins.ops import OPS
from tests.ops.conformance import check_op, run_float64, run_reference

OP = OPS["RotaryQueryKey"]


def make(batch=2, length=3, Hq=4, Hkv=2, Dh=16, R=None, dtype=torch.float32, seed=0):
    R = Dh if R is None else R
    g = torch.Generator().manual_seed(seed)
    angles = torch.rand(batch, length, R // 2, generator=g) * 6.3
    angles = torch.cat([angles, angles], dim=-1)
    return {
        "query": torch.randn(batch, length, Hq, Dh, generator=g).to(dtype),
        "key": torch.randn(batch, length, Hkv, Dh, generator=g).to(dtype),
        "cos": angles.cos().to(dtype),
        "sin": angles.sin().to(dtype),
    }


check = functools.partial(check_op, OP)


@pytest.mark.parametrize("length", [1, 2, 63, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lengths(length, dtype):
    check(make(length=length, dtype=dtype), dtype)


@pytest.mark.parametrize(("Hq", "Hkv", "Dh", "R"), [(1, 1, 2, 2), (3, 1, 10, 10), (4, 4, 64, 16), (32, 8, 80, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sizes(Hq, Hkv, Dh, R, dtype):
    check(make(Hq=Hq, Hkv=Hkv, Dh=Dh, R=R, dtype=dtype), dtype)


def test_features_past_the_turned_ones_are_copied():
    values = make(Dh=16, R=8, dtype=torch.float16)
    for rotated, x in zip(run_reference(OP, values), (values["query"], values["key"]), strict=True):
        assert torch.equal(rotated[..., 8:], x[..., 8:])
        assert not torch.equal(rotated[..., :8], x[..., :8])


def test_it_is_transformers_rotation():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    values = make(dtype=torch.float64)
    query, key = (values[name].transpose(1, 2) for name in ("query", "key"))
    expected = apply_rotary_pos_emb(query, key, values["cos"], values["sin"])
    for ours, theirs in zip(run_float64(OP, values), expected, strict=True):
        torch.testing.assert_close(ours, theirs.transpose(1, 2))
