import pytest
import torch
from reference import DTYPES, assert_near, poisoned, randn


def run(kernels, x, weights, biases):
    outputs = [poisoned(*x.shape[:-1], weight.shape[0], dtype=x.dtype) for weight in weights]
    named = {
        f"{kind}{i or ''}": tensor
        for kind, tensors in (("weight", weights), ("bias", biases), ("y", outputs))
        for i, tensor in enumerate(tensors)
    }
    params = kernels.params("linear", x, **named)
    workspace = torch.empty(kernels.workspace("linear", params), dtype=torch.uint8, device=x.device)
    params.workspace, params.workspace_bytes = workspace.data_ptr() or None, workspace.numel()
    kernels.call("linear", params, torch.cuda.current_stream().cuda_stream)
    return outputs


def make(rows, K, features, dtype, bias=True):
    x = randn(rows, K, dtype=dtype)
    weights = [randn(N, K, dtype=dtype, scale=K**-0.5) for N in features]
    return x, weights, [randn(N, dtype=dtype) if bias else None for N in features]


def check(name, outputs, x, weights, biases):
    for i, (ours, weight, bias) in enumerate(zip(outputs, weights, biases, strict=True)):
        true = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
        torchs = torch.nn.functional.linear(x, weight, bias)
        assert_near(f"{name} y{i}", ours, torchs, true)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9, 63, 500, 2049])
@pytest.mark.parametrize(
    ("K", "features"), [(768, (1536, 1536)), (1536, (48, 16, 16)), (48, (1536,)), (1, (3,)), (33, (7, 65))]
)
def test_shapes(kernels, rows, K, features, dtype):
    torch.manual_seed(0)
    for bias in (False, True):
        args = make(rows, K, features, dtype, bias)
        check(f"{rows} x {K} -> {features}", run(kernels, *args), *args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 40])
def test_large(kernels, rows, dtype):
    torch.manual_seed(1)
    args = make(rows, 7168, (2048,), dtype)
    check("down", run(kernels, *args), *args)
    args = make(rows, 768, (50280,), dtype, bias=False)
    check("head", run(kernels, *args), *args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 40])
def test_addresses_that_are_not_aligned(kernels, rows, dtype):
    torch.manual_seed(2)
    x, (weight,), (bias,) = make(rows, 64, (33,), dtype)
    shifted = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) for t in (x, weight, bias)]
    assert any(t.data_ptr() % 16 for t in shifted)
    args = shifted[0], [shifted[1]], [shifted[2]]
    check("shifted", run(kernels, *args), *args)


@pytest.mark.parametrize("rows", [1, 40])
def test_graph_capture(kernels, rows):
    torch.manual_seed(3)
    args = make(rows, 256, (96, 32), torch.float16)
    run(kernels, *args)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run(kernels, *args)
    for output in outputs:
        output.fill_(torch.nan)
    graph.replay()
    check("graph", outputs, *args)


def test_no_tf32(kernels):
    """Products of float32 keep their 24 bits whatever PyTorch is set to."""
    torch.manual_seed(4)
    x, weights, biases = make(256, 1024, (512,), torch.float32)
    (y,) = run(kernels, x, weights, biases)
    true = torch.nn.functional.linear(x.double(), weights[0].double(), biases[0].double())
    assert (y.double() - true).norm() / true.norm() < 1e-6


def test_a_product_first_met_in_a_capture(kernels):
    """It runs on our own kernel, since cuBLASLt makes no plan while a graph is captured; later calls are cuBLASLt's."""
    x = torch.randn(77, 264, device="cuda").half()
    weight, y = torch.randn(136, 264, device="cuda").half() / 16, torch.full((77, 136), torch.nan, device="cuda").half()
    params = kernels.params("linear", x, weight, y=y)
    size = kernels.workspace("linear", params)
    workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
    params.workspace, params.workspace_bytes = workspace.data_ptr(), size
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.call("linear", params, torch.cuda.current_stream().cuda_stream)
    true = x.double() @ weight.double().T
    for run in (graph.replay, lambda: kernels.call("linear", params, torch.cuda.current_stream().cuda_stream)):
        y.fill_(torch.nan)
        run()
        torch.cuda.synchronize()
        assert ((y.double() - true).norm() / true.norm()).item() < 2 * 2.0**-11
