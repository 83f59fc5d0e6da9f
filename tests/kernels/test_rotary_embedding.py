import pytest
import torch
from reference import DEVICE, DTYPES, assert_near, poisoned, randn


def run(kernels, query, key, cos, sin, in_place=False):
    rotated = (query, key) if in_place else [poisoned(*x.shape, dtype=x.dtype) for x in (query, key)]
    params = kernels.params("rotary_embedding", query, key, cos, sin, *rotated)
    kernels.call("rotary_embedding", params, torch.cuda.current_stream().cuda_stream)
    return rotated


def reference(x, cos, sin, dtype):
    R = cos.shape[-1]
    turned, cos, sin = x[..., :R].to(dtype), cos[:, None].to(dtype), sin[:, None].to(dtype)
    low, high = turned.chunk(2, -1)
    return torch.cat([turned * cos + torch.cat([-high, low], -1) * sin, x[..., R:].to(dtype)], -1)


def make(rows, Hq, Hkv, Dh, R, dtype):
    angles = torch.rand(rows, R, device=DEVICE) * 6.3  # unlike a model's, the halves differ
    heads = [randn(rows, heads, Dh, dtype=dtype) for heads in (Hq, Hkv)]
    return *heads, angles.cos().to(dtype), angles.sin().to(dtype)


def check(name, result, query, key, cos, sin):
    for what, ours, x in zip(("query", "key"), result, (query, key), strict=True):
        single = reference(x, cos, sin, torch.float32).to(x.dtype)
        assert_near(f"{name} {what}", ours, single, reference(x, cos, sin, torch.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 500])
@pytest.mark.parametrize(
    ("Hq", "Hkv", "Dh", "R"),
    [
        (12, 12, 64, 64),
        (32, 8, 128, 128),
        (3, 1, 80, 20),
        (4, 2, 10, 10),
        (2, 2, 64, 16),
        (71, 1, 64, 64),
        (2, 1, 1030, 1026),
    ],
)
def test_shapes(kernels, Hq, Hkv, Dh, R, rows, dtype):
    torch.manual_seed(0)
    args = make(rows, Hq, Hkv, Dh, R, dtype)
    check("rotary", run(kernels, *args), *args)


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place(kernels, dtype):
    torch.manual_seed(1)
    query, key, cos, sin = make(9, 4, 2, 64, 32, dtype)
    check("in place", run(kernels, query.clone(), key.clone(), cos, sin, in_place=True), query, key, cos, sin)


@pytest.mark.parametrize("dtype", DTYPES)
def test_addresses_that_are_not_aligned(kernels, dtype):
    torch.manual_seed(2)
    args = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) for t in make(9, 4, 2, 64, 32, dtype)]
    assert any(t.data_ptr() % 16 for t in args)
    check("shifted", run(kernels, *args), *args)


def test_graph_capture(kernels):
    torch.manual_seed(3)
    args = make(3, 4, 2, 64, 64, torch.float16)
    run(kernels, *args)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rotated = run(kernels, *args)
    for each in rotated:
        each.fill_(torch.nan)
    graph.replay()
    check("graph", rotated, *args)
