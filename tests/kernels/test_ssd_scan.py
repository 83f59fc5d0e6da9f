import pytest
import reference
import torch
from reference import DTYPES, assert_near, poison_padding, poisoned, randn, ssd_reference

TOKENS = (0, 1, 3, 4, 6)
"""Of the arguments, those that have a row for each token."""

MIN_PRODUCT_TOKENS = 8
"""Of a call, from which on it is made of matrix products, whose operands are 16 bits wide."""

SIZES = [
    (24, 64, 128, 1),
    (12, 80, 128, 2),
    (8, 192, 104, 1),
    (6, 64, 64, 3),
    (1, 48, 40, 1),
    (6, 80, 100, 3),
    (3, 128, 256, 1),
    (2, 256, 16, 2),
    (4, 7, 16, 2),
    (5, 33, 1, 1),
    (9, 1, 17, 1),
]
"""H, P, N, G."""


def make(batch, length, heads, head_size, states, groups=1, dtype=torch.float32, optional=True):
    """Arguments in the op's order, from x to past; dt as a trained Mamba-2 has it, 1e-3 to 0.5 after softplus."""
    return [
        randn(batch, length, heads, head_size, dtype=dtype),
        randn(batch, length, heads, dtype=dtype),
        -torch.exp(torch.rand(heads, device="cuda") * 2.7),
        randn(batch, length, groups, states, dtype=dtype),
        randn(batch, length, groups, states, dtype=dtype),
        randn(heads) if optional else None,
        randn(batch, length, heads, head_size, dtype=dtype) if optional else None,
        randn(heads) - 3 if optional else None,
        randn(batch, heads, head_size, states),
    ]


def run(kernels, args, lens=None, softplus=True, limits=(0.0, 0.0), segments=0, in_place=False, workspace=None):
    x, past = args[0], args[8].clone()
    y = poisoned(*x.shape, dtype=x.dtype)
    present = past if in_place else torch.full_like(past, reference.NAN)
    params = kernels.params("ssd_scan", *args[:8], past, lens, y, present, softplus, *limits, segments)
    wanted = kernels.workspace("ssd_scan", params) if workspace is None else workspace
    buffer = poisoned(max(wanted // 4, 1), dtype=torch.float32)
    params.workspace, params.workspace_bytes = buffer.data_ptr(), wanted
    kernels.call("ssd_scan", params, torch.cuda.current_stream().cuda_stream)
    return y, present


def check(name, results, args, lens=None, softplus=True, limits=(0.0, 0.0), longest=None):
    """`results`: one (y, present) or several for the same arguments, in calls of up to `longest` tokens."""
    dtype, longest = args[0].dtype, longest or args[0].shape[1]
    in_products = dtype != torch.float32 and longest >= MIN_PRODUCT_TOKENS
    double = ssd_reference(*args, lens, softplus, limits, torch.float64)
    single = ssd_reference(*args, lens, softplus, limits, torch.float32, dtype if in_products else None)
    for y, present in results if isinstance(results, list) else [results]:
        assert_near(f"{name} y", y, single[0].to(dtype), double[0])
        assert_near(f"{name} present", present, single[1], double[1], dtype=dtype if in_products else None)
        if lens is not None:
            assert (y[~reference.lens_mask(lens, args[0].shape[1])] == 0).all(), f"{name}: padded tokens are not 0"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "head_size", "states", "groups"), SIZES)
@pytest.mark.parametrize("length", [1, 2, 63, 500])
def test_shapes(kernels, length, heads, head_size, states, groups, dtype):
    torch.manual_seed(0)
    for optional, softplus in ((True, True), (False, False)):
        args = make(2, length, heads, head_size, states, groups, dtype, optional)
        if not softplus:
            args[1] = (args[1].abs() * 0.1).to(dtype)
        results = [run(kernels, args, None, softplus, segments=n, in_place=n == 3) for n in (0, 1, 3)]
        check(f"L={length} P={head_size} N={states}", results, args, softplus=softplus)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "length", "heads"), [(1, 2049, 24), (8, 300, 80), (8, 900, 80), (64, 1, 80), (1, 5000, 8), (1, 8200, 80)]
)
def test_sizes_of_models(kernels, batch, length, heads, dtype):
    torch.manual_seed(1)
    args = make(batch, length, heads, 64, 128, dtype=dtype)
    check(f"B={batch} L={length} H={heads}", run(kernels, args), args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 70, 500])
@pytest.mark.parametrize("segments", [0, 4])
def test_ragged(kernels, length, segments, dtype):
    torch.manual_seed(3)
    lens = torch.tensor([0, 1, length // 2, length - 1, length], dtype=torch.int32, device="cuda")
    args = make(5, length, 6, 64, 128, 2, dtype=dtype)
    for i in TOKENS:
        poison_padding(args[i], lens)
    results = [run(kernels, args, lens, segments=segments, in_place=in_place) for in_place in (False, True)]
    check(f"ragged L={length}", results, args, lens)
    for _, present in results:
        assert torch.equal(present[0], args[8][0]), "a row without tokens must keep its state"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "length", "heads", "states"),
    [(8, 200, 54, 64), (8, 200, 40, 128), (3, 1352, 30, 128), (3, 1352, 44, 64)],
)
def test_blocks_that_scan_several_parts(kernels, batch, length, heads, states, dtype):
    """On a device of some 130 multiprocessors; of the last two the last segment is shorter than the others."""
    torch.manual_seed(6)
    args = make(batch, length, heads, 64, states, dtype=dtype)
    lens = torch.arange(batch, dtype=torch.int32, device="cuda") * length // max(batch - 1, 1)
    for i in TOKENS:
        poison_padding(args[i], lens)
    check(f"parts {batch}x{length}x{heads}x{states}", run(kernels, args, lens), args, lens)


@pytest.mark.parametrize("limits", [(0.05, 0.0), (0.0, 0.1), (0.03, 0.2)])
def test_limits_of_the_step(kernels, limits):
    torch.manual_seed(4)
    for length in (1, 200):
        args = make(2, length, 4, 64, 32)
        check(f"limits {limits}", run(kernels, args, limits=limits), args, limits=limits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("first", "odd"), [(0, 0), (0, 1), (0, 5), (1, 4)])
def test_slices_of_the_projection(kernels, first, odd, dtype):
    """As Mamba-2's layers lay them out: z, then x, B and C of one convolution, then dt; aligned or not."""
    torch.manual_seed(5)
    for length in (1, 130):
        args = make(2, length, 3, 64, 64, dtype=dtype)
        wide = randn(2, length, first + 515 + odd, dtype=dtype)[..., first:]
        z, x, B, C, dt = torch.split(wide, [192, 192, 64, 64, 3 + odd], dim=-1)
        args[0], args[1], args[6] = x.unflatten(-1, (3, 64)), dt[..., odd:], z.unflatten(-1, (3, 64))
        args[3], args[4] = B.unsqueeze(2), C.unsqueeze(2)
        check("slices", run(kernels, args), args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [[1, 7, 64, 129, 228], [1] * 1000])
def test_chunked_prefill_and_decode(kernels, sizes, dtype):
    torch.manual_seed(6)
    args = make(2, sum(sizes), 4, 64, 64, dtype=dtype)
    state, parts, start = args[8], [], 0
    for size in sizes:
        part = [a[:, start : start + size].contiguous() if i in TOKENS else a for i, a in enumerate(args)]
        part[8], start = state, start + size
        y, state = run(kernels, part, in_place=True)
        parts.append(y)
    check(f"{len(sizes)} calls", (torch.cat(parts, 1), state), args, longest=max(sizes))


def test_any_workspace_is_enough(kernels):
    torch.manual_seed(7)
    args = make(1, 1000, 4, 64, 128)
    for workspace in (0, 64, 100_000, 1_000_000):
        check(f"workspace {workspace}", run(kernels, args, workspace=workspace), args)


def test_extreme_steps(kernels):
    torch.manual_seed(8)
    args = make(1, 400, 16, 64, 16)
    args[1] = torch.linspace(-90, 90, 6400, device="cuda").view(1, 400, 16).contiguous()
    check("dt from -90 to 90", run(kernels, args), args)


def test_what_comes_later_never_reaches_back(kernels):
    torch.manual_seed(9)
    args = make(1, 200, 4, 64, 64)
    clean, _ = run(kernels, args)
    for name, at in (("x", 0), ("dt", 1), ("B", 3), ("C", 4)):
        for value in (float("nan"), float("inf")):
            given = list(args)
            given[at] = args[at].clone()
            given[at][:, 150] = value
            y, _ = run(kernels, given)
            torch.testing.assert_close(y[:, :150], clean[:, :150], msg=lambda m, name=name: f"{name}: {m}")


def test_graph_capture(kernels):
    torch.manual_seed(10)
    args = make(1, 1000, 8, 64, 128, dtype=torch.bfloat16)
    y, present = torch.full_like(args[0], reference.NAN), torch.full_like(args[8], reference.NAN)
    params = kernels.params("ssd_scan", *args, None, y, present, True, 0.0, 0.0)
    params.workspace_bytes = kernels.workspace("ssd_scan", params)
    buffer = poisoned(max(params.workspace_bytes // 4, 1), dtype=torch.float32)
    params.workspace = buffer.data_ptr()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.call("ssd_scan", params, torch.cuda.current_stream().cuda_stream)
    for _ in range(2):
        graph.replay()
    check("graph", (y, present), args)
