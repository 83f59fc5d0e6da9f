import pytest
import reference
import torch
from reference import DTYPES, assert_near, conv_reference, poison_padding, poisoned, randn


def run(kernels, x, weight, bias, past, lens, activation, in_place=False):
    y = poisoned(*x.shape, dtype=x.dtype)
    past = past.clone()
    present = past if in_place else torch.full_like(past, reference.NAN)
    params = kernels.params("causal_conv1d", x, weight, bias, past, lens, y, present, activation)
    kernels.call("causal_conv1d", params, torch.cuda.current_stream().cuda_stream)
    return y, present


def make(batch, length, channels, taps, dtype, bias=True):
    x, weight = randn(batch, length, channels, dtype=dtype), randn(channels, taps, dtype=dtype, scale=0.5)
    return (
        x,
        weight,
        randn(channels, dtype=dtype) if bias else None,
        randn(batch, channels, taps - 1, dtype=dtype),
    )


def check(name, result, x, weight, bias, past, lens, activation):
    double = conv_reference(x, weight, bias, past, lens, activation, torch.float64)
    single = conv_reference(x, weight, bias, past, lens, activation, torch.float32)
    assert_near(f"{name} y", result[0], single[0].to(x.dtype), double[0])
    assert torch.equal(result[1].double(), double[1]), f"{name}: present differs from the inputs it is copied from"
    if lens is not None:
        assert (result[0][~reference.lens_mask(lens, x.shape[1])] == 0).all(), f"{name}: padded tokens are not 0"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("taps", range(2, 9))
@pytest.mark.parametrize("shape", [(2, 63, 200), (1, 1, 33), (3, 2, 1), (2, 500, 96), (1, 2049, 64), (9, 300, 1536)])
def test_shapes(kernels, shape, taps, dtype):
    torch.manual_seed(0)
    for activation, bias, in_place in (("silu", True, False), ("none", False, True)):
        args = make(*shape, taps, dtype, bias)
        result = run(kernels, *args, None, activation, in_place)
        check(f"{shape} K={taps} {activation}", result, *args, None, activation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("length", "channels"), [(5, 40), (70, 33), (200, 2048)])
def test_ragged(kernels, length, channels, in_place, dtype):
    torch.manual_seed(1)
    lens = torch.tensor([0, 1, 2, 3, length - 1, length], dtype=torch.int32, device="cuda")
    x, weight, bias, past = make(6, length, channels, 4, dtype)
    poison_padding(x, lens)
    check(
        "ragged",
        run(kernels, x, weight, bias, past, lens, "silu", in_place),
        x,
        weight,
        bias,
        past,
        lens,
        "silu",
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_slice_of_a_fused_projection(kernels, dtype):
    torch.manual_seed(2)
    x, weight, bias, past = make(2, 200, 3 * 2048, 4, dtype)
    part = x[..., 2048:4096]
    args = (part, weight[:2048].contiguous(), bias[:2048].contiguous(), past[:, :2048].contiguous())
    check("slice", run(kernels, *args, None, "silu"), *args, None, "silu")


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_and_steps_equal_the_whole(kernels, dtype):
    torch.manual_seed(3)
    x, weight, bias, past = make(2, 500, 96, 4, dtype)
    whole, present = run(kernels, x, weight, bias, past, None, "silu")
    for sizes in ([1, 7, 64, 428], [1] * 500):
        state, parts = past, []
        for part in x.split(sizes, 1):
            y, state = run(kernels, part.contiguous(), weight, bias, state, None, "silu", in_place=True)
            parts.append(y)
        assert torch.equal(torch.cat(parts, 1), whole)
        assert torch.equal(state, present)


def test_graph_capture(kernels):
    torch.manual_seed(4)
    args = make(2, 33, 64, 4, torch.float16)
    y, present = poisoned(2, 33, 64, dtype=torch.float16), args[3].clone()
    params = kernels.params("causal_conv1d", *args, None, y, present, "silu")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.call("causal_conv1d", params, torch.cuda.current_stream().cuda_stream)
    graph.replay()
    check("graph", (y, present), *args, None, "silu")
