import pytest
import torch
from reference import DTYPES, assert_near, poisoned, randn


def run(kernels, x, weight, residual, epsilon=1e-5, wide=False, wants_sum=True, in_place=False):
    stream = torch.float32 if wide else x.dtype
    y = x if in_place else poisoned(*x.shape, dtype=x.dtype)
    total = residual if in_place else poisoned(*x.shape, dtype=stream) if wants_sum else None
    params = kernels.params("rms_norm", x, weight, residual, y, total, epsilon, wide)
    kernels.call("rms_norm", params, torch.cuda.current_stream().cuda_stream)
    return y, total


def reference(x, weight, residual, epsilon, dtype):
    s = x.to(dtype) if residual is None else x.to(dtype) + residual.to(dtype)
    return s * torch.rsqrt(s.square().mean(-1, keepdim=True) + epsilon) * weight.to(dtype), s


def make(rows, D, dtype, wide=False, residual=True):
    x, weight = randn(rows, D, dtype=dtype), randn(D, dtype=dtype)
    return x, weight, randn(rows, D, dtype=torch.float32 if wide else dtype, scale=3) if residual else None


def check(name, result, x, weight, residual, epsilon=1e-5):
    (y, s), (y32, s32) = (reference(x, weight, residual, epsilon, d) for d in (torch.float64, torch.float32))
    assert_near(f"{name} y", result[0], y32.to(x.dtype), y)
    if result[1] is not None:
        assert_near(f"{name} sum", result[1], s32.to(result[1].dtype), s)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("D", [1, 33, 200, 512, 768, 2048, 5120, 8200, 20000])
def test_shapes(kernels, D, residual, wide, dtype):
    torch.manual_seed(0)
    for rows in (1, 7, 300):
        args = make(rows, D, dtype, wide, residual)
        check(f"{rows} x {D}", run(kernels, *args, wide=wide), *args)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_may_be_left_out(kernels, dtype):
    torch.manual_seed(1)
    args = make(5, 768, dtype)
    check("no sum", run(kernels, *args, wants_sum=False), *args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [768, 33, 40000])
def test_in_place(kernels, D, dtype):
    torch.manual_seed(2)
    x, weight, residual = make(5, D, dtype)
    check("in place", run(kernels, x.clone(), weight, residual.clone(), in_place=True), x, weight, residual)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [64, 768, 5120])
def test_addresses_that_are_not_aligned(kernels, D, dtype):
    torch.manual_seed(4)
    args = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) for t in make(5, D, dtype)]
    assert any(t.data_ptr() % 16 for t in args)
    check("shifted", run(kernels, *args), *args)


def test_tokens_of_zeros_and_of_large_values(kernels):
    x, weight, residual = make(3, 768, torch.float32)
    x[0], residual[0] = 0, 0
    x[1], residual[1] = 1e15, 1e15
    check("extremes", run(kernels, x, weight, residual), x, weight, residual)


def test_graph_capture(kernels):
    torch.manual_seed(3)
    args = make(3, 768, torch.float16)
    run(kernels, *args)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, total = run(kernels, *args)
    y.fill_(torch.nan)
    graph.replay()
    check("graph", (y, total), *args)
