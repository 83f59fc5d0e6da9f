"""Embedding and LastToken, which move rows and compute nothing."""

import pytest
import torch
from reference import DEVICE, DTYPES, NAN, poisoned, randn


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "V", "D"), [(1, 50280, 768), (500, 301, 33), (2049, 32000, 2048)])
def test_embedding(kernels, rows, V, D, dtype):
    torch.manual_seed(0)
    weight, y = randn(V, D, dtype=dtype), poisoned(rows, D, dtype=dtype)
    ids = torch.randint(V, (rows,), dtype=torch.int32, device=DEVICE)
    ids[0] = V - 1
    kernels.call("embedding", kernels.params("embedding", weight, ids, y), torch.cuda.current_stream().cuda_stream)
    assert torch.equal(y, weight[ids.long()])


@pytest.mark.parametrize("dtype", DTYPES)
def test_ids_outside_the_table_give_zeros(kernels, dtype):
    weight, y = randn(7, 64, dtype=dtype), poisoned(3, 64, dtype=dtype)
    ids = torch.tensor([-1, 7, 2**31 - 1], dtype=torch.int32, device=DEVICE)
    kernels.call("embedding", kernels.params("embedding", weight, ids, y), torch.cuda.current_stream().cuda_stream)
    assert (y == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("length", "D"), [(1, 768), (63, 33), (2049, 2048)])
def test_last_token(kernels, length, D, dtype):
    torch.manual_seed(1)
    lens = torch.tensor([length, 1, 0, length + 5, (length + 1) // 2], dtype=torch.int32, device=DEVICE)
    x, y = randn(5, length, D, dtype=dtype), poisoned(5, 1, D, dtype=dtype)
    last = lens.long().clamp(1, length) - 1
    for b in range(5):
        x[b, last[b] + 1 :] = NAN
    kernels.call("last_token", kernels.params("last_token", x, lens, y), torch.cuda.current_stream().cuda_stream)
    assert torch.equal(y[:, 0], x[torch.arange(5, device=DEVICE), last])
