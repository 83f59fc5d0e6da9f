import functools

import pytest
import torch

from seqexport.plugins.ops import OPS
from tests.ops.conformance import BACKENDS, check_op, run_reference

OP = OPS["Embedding"]


def make(batch=2, length=3, V=11, D=24, dtype=torch.float32, ids=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    drawn = torch.randint(V, (batch, length), generator=g, dtype=torch.int32)
    return {
        "weight": torch.randn(V, D, generator=g).to(dtype),
        "ids": drawn if ids is None else torch.tensor(ids, dtype=torch.int32),
    }


check = functools.partial(check_op, OP)


@pytest.mark.parametrize(("length", "V", "D"), [(1, 1, 1), (2, 7, 33), (500, 300, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sizes(length, V, D, dtype):
    check(make(length=length, V=V, D=D, dtype=dtype), dtype)


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
def test_rows_are_copied_and_ids_outside_the_table_give_zeros(run):
    values = make(V=5, ids=[[0, 4, 5], [-1, 2, 2**31 - 1]])
    (y,) = run(OP, values, {})
    expected = values["weight"][torch.tensor([[0, 4, 0], [0, 2, 0]])]
    expected[0, 2] = expected[1, 0] = expected[1, 2] = 0
    assert torch.equal(y, expected)
