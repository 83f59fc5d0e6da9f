import pytest
import torch
from reference import DTYPES, assert_near, poisoned, randn


def run(
    kernels, x, weight, residual, z=None, groups=1, norm_before_gate=False, epsilon=1e-5, wide=False, wants_sum=True,
    in_place=False,
):  # fmt: skip
    stream = torch.float32 if wide else x.dtype
    y = x if in_place else poisoned(*x.shape, dtype=x.dtype)
    total = residual if in_place else poisoned(*x.shape, dtype=stream) if wants_sum else None
    params = kernels.params("rms_norm", x, weight, residual, z, y, total, epsilon, groups, norm_before_gate, wide)
    kernels.call("rms_norm", params, torch.cuda.current_stream().cuda_stream)
    return y, total


def reference(x, weight, residual, z, groups, norm_before_gate, epsilon, dtype):
    gate = None if z is None else torch.nn.functional.silu(z.to(dtype))
    s = x.to(dtype) if gate is None or norm_before_gate else x.to(dtype) * gate
    s = s if residual is None else s + residual.to(dtype)
    grouped = s.unflatten(-1, (groups, -1))
    y = (grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + epsilon)).flatten(-2) * weight.to(dtype)
    return y * gate if gate is not None and norm_before_gate else y, s


def make(rows, D, dtype, wide=False, residual=True):
    x, weight = randn(rows, D, dtype=dtype), randn(D, dtype=dtype)
    return x, weight, randn(rows, D, dtype=torch.float32 if wide else dtype, scale=3) if residual else None


def check(name, result, x, weight, residual, z=None, groups=1, norm_before_gate=False, epsilon=1e-5):
    (y, s), (y32, s32) = (
        reference(x, weight, residual, z, groups, norm_before_gate, epsilon, d) for d in (torch.float64, torch.float32)
    )
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
@pytest.mark.parametrize("norm_before_gate", [False, True])
@pytest.mark.parametrize(("D", "groups"), [(5120, 1), (768, 1), (33, 1), (8192, 8), (60, 4), (7, 7), (20000, 1)])
def test_gates_and_groups(kernels, D, groups, norm_before_gate, dtype):
    """The gate is a window of a wider tensor, at 16 bytes and beside them."""
    torch.manual_seed(5)
    for rows, at in ((1, 0), (7, 16), (300, 3)):
        x, weight, residual = make(rows, D, dtype, residual=at == 3)
        z = randn(1, rows, D + 40, dtype=dtype)[:, :, at : at + D]
        args = (x[None], weight, None if residual is None else residual[None], z, groups, norm_before_gate)
        check(f"{rows} x {D}", run(kernels, *args), *args)


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
