import pytest
import torch

from seqexport.plugins.ops import OPS
from tests.ops.conformance import BACKENDS, run_reference

OP = OPS["LastToken"]


def make(batch=3, length=5, D=24, dtype=torch.float32, seq_lens=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, length, D, generator=g).to(dtype),
        "seq_lens": torch.tensor(seq_lens or [length] * batch, dtype=torch.int32),
    }


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("D", [1, 33, 64])
def test_the_last_valid_token_of_each_row(run, D, dtype):
    values = make(batch=5, D=D, dtype=dtype, seq_lens=[5, 1, 3, 0, 9])
    (y,) = run(OP, values, {})
    assert torch.equal(y, torch.stack([values["x"][b, t : t + 1] for b, t in enumerate([4, 0, 2, 0, 4])]))


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
def test_what_is_past_it_is_not_read(run):
    values = make(seq_lens=[2, 5, 1])
    for b, n in enumerate([2, 5, 1]):
        values["x"][b, n:] = torch.nan
    (y,) = run(OP, values, {})
    assert y.shape == (3, 1, 24)
    assert torch.isfinite(y).all()
