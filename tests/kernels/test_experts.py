import pytest
import torch
from reference import DTYPES, NAN, assert_near, poisoned, randn

from seqexport.plugins.ops.experts import ACTIVATIONS

FEW, MANY = [1, 2, 3, 8], [9, 63, 300]
SIZES = [(2048, 8, 2, 768), (64, 6, 3, 40), (1, 1, 1, 1), (33, 512, 16, 9), (24, 2, 5, 8), (136, 130, 32, 264)]
"""D, E, k, F: of a model, of tiles with edges, of rows that are no vectors, more choices than experts, many pairs."""


def make(rows, D, E, k, F, dtype, gated=1, biases=False):
    U = 2 * F if gated else F
    x, weight = randn(rows, D, dtype=dtype), torch.rand(rows, k, device="cuda") / k
    chosen = torch.rand(rows, max(E, k), device="cuda").topk(k).indices.remainder(E).int()
    up, down = randn(E, U, D, dtype=dtype, scale=D**-0.5), randn(E, D, F, dtype=dtype, scale=F**-0.5)
    return (x, chosen, weight, up, down, *((randn(E, n, dtype=dtype) if biases else None) for n in (U, D)))


def run(kernels, arguments, gated=1, activation="silu", workspace_bytes=None):
    x = arguments[0]
    y = poisoned(*x.shape, dtype=x.dtype)
    params = kernels.params("experts", *arguments, y, gated, activation)
    size = kernels.workspace("experts", params) if workspace_bytes is None else workspace_bytes
    workspace = torch.full((size,), 255, dtype=torch.uint8, device="cuda")  # NaN, or an index far outside
    params.workspace, params.workspace_bytes = workspace.data_ptr(), size
    kernels.call("experts", params, torch.cuda.current_stream().cuda_stream)
    return y


def eager(x, chosen, weight, up, down, up_bias, down_bias, gated, activation):
    """As transformers has them: every product and the experts' sum are rounded to the dtype."""
    y = torch.zeros_like(x)
    for expert in range(len(up)):
        token, place = (chosen == expert).nonzero(as_tuple=True)
        if len(token) == 0:
            continue
        h = torch.nn.functional.linear(x[token], up[expert], None if up_bias is None else up_bias[expert])
        gate, other = h.chunk(2, -1) if gated else (h, 1)
        h = ACTIVATIONS[activation](gate) * other
        out = torch.nn.functional.linear(h, down[expert], None if down_bias is None else down_bias[expert])
        y.index_add_(0, token, (out * weight[token, place, None]).to(y.dtype))
    return y


def check(name, kernels, arguments, gated=1, activation="silu", **options):
    wide = [t.double() if t is not None and t.is_floating_point() else t for t in arguments]
    true = eager(*wide, gated, activation)
    ours = run(kernels, arguments, gated, activation, **options)
    assert_near(name, ours, eager(*arguments, gated, activation), true)
    assert torch.equal(run(kernels, arguments, gated, activation, **options), ours), f"{name}: a second run differs"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [*FEW, *MANY])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_shapes(kernels, rows, sizes, dtype):
    torch.manual_seed(0)
    for gated in (1, 0):
        arguments = make(rows, *sizes, dtype, gated, biases=bool(gated))
        check(f"{rows} tokens, {sizes}, gated {gated}", kernels, arguments, gated)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(kernels, activation, rows, dtype):
    torch.manual_seed(1)
    for gated in (1, 0):
        for biases in (True, False):
            arguments = make(rows, 96, 5, 2, 64, dtype, gated, biases)
            check(f"{activation}, gated {gated}", kernels, arguments, gated, activation)


@pytest.mark.parametrize("rows", [4, 200])
def test_one_expert_for_all(kernels, rows):
    torch.manual_seed(2)
    x, chosen, *rest = make(rows, 128, 16, 2, 192, torch.bfloat16)
    check("one expert", kernels, (x, torch.full_like(chosen, 7), *rest))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [3, 8, 100])
def test_an_index_outside_and_experts_that_nobody_chose(kernels, rows, dtype):
    torch.manual_seed(3)
    x, chosen, weight, *weights = make(rows, 72, 9, 4, 40, dtype, biases=True)
    chosen = chosen.remainder(4)
    chosen[0] = torch.tensor([-1, 9, 2**31 - 1, -(2**31)])
    chosen[1, 1:3] = torch.tensor([100, -7])
    for tensor in weights:
        tensor[4:] = NAN
    used = [tensor[:4] for tensor in weights]
    expected = eager(x, chosen, weight, *used, 1, "silu")
    true = eager(x.double(), chosen, weight.double(), *(t.double() for t in used), 1, "silu")
    y = run(kernels, (x, chosen, weight, *weights))
    assert_near("outside", y, expected, true)
    assert (y[0] == 0).all()


@pytest.mark.parametrize("rows", [1, 8, 100])
def test_workspace_of_any_size(kernels, rows):
    """From one token's on; less is refused."""
    torch.manual_seed(4)
    arguments = make(rows, 64, 12, 3, 40, torch.float16)
    least = 3 * 40 * 4
    for size in (least, 3 * least, 20_000, 50_000):
        check(f"{size} bytes", kernels, arguments, workspace_bytes=size)
    with pytest.raises(Exception, match=rf"workspace_bytes must be at least {least}, got {least - 1}"):
        run(kernels, arguments, workspace_bytes=least - 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 40])
def test_addresses_that_are_not_aligned(kernels, rows, dtype):
    torch.manual_seed(5)
    x, chosen, weight, up, down, *biases = make(rows, 64, 5, 2, 40, dtype, biases=True)
    shifted = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) for t in (x, up, down, *biases)]
    assert any(t.data_ptr() % 16 for t in shifted)
    check("shifted", kernels, (shifted[0], chosen, weight, *shifted[1:]))


@pytest.mark.parametrize("rows", [1, 8, 100])
def test_graph_capture(kernels, rows):
    torch.manual_seed(6)
    arguments = make(rows, 256, 8, 2, 96, torch.bfloat16)
    expected = run(kernels, arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run(kernels, arguments)
    y.fill_(NAN)
    graph.replay()
    assert torch.equal(y, expected)


def test_as_the_op(kernels):
    """``seqexport.ops.experts`` on CUDA."""
    from seqexport import ops

    torch.manual_seed(7)
    x, *rest = make(10, 64, 4, 2, 32, torch.float16)
    wide = [t.double() if t is not None and t.is_floating_point() else t for t in (x, *rest)]
    y = ops.experts(x.view(2, 5, 64), *(t.view(2, 5, 2) for t in rest[:2]), *rest[2:])
    assert_near("op", y.view(10, 64), eager(x, *rest, 1, "silu"), eager(*wide, 1, "silu"))
