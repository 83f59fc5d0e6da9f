import pytest
import reference
import torch
from reference import DTYPES, assert_near, poison_padding, poisoned, randn, scan_reference


def make(batch, length, channels, states, groups=1, dtype=torch.float32, optional=True):
    """Arguments in the op's order, from x to past; dt as a trained Mamba has it, 1e-3 to 0.5 after softplus."""
    A = -torch.exp(torch.rand(channels, states, device="cuda") * 2.7)
    return [
        randn(batch, length, channels, dtype=dtype),
        randn(batch, length, channels, dtype=dtype),
        A,
        randn(batch, length, groups, states, dtype=dtype),
        randn(batch, length, groups, states, dtype=dtype),
        randn(channels) if optional else None,
        randn(batch, length, channels, dtype=dtype) if optional else None,
        randn(channels) - 3 if optional else None,
        randn(batch, channels, states),
    ]


def run(kernels, args, lens=None, softplus=True, chunks=0, in_place=False, workspace=None, back=0):
    x, past = args[0], args[8].clone()
    y = poisoned(*x.shape, dtype=x.dtype)
    present = past if in_place else torch.full_like(past, reference.NAN)
    params = kernels.params("selective_scan", *args[:8], past, lens, y, present, softplus, back, chunks)
    wanted = kernels.workspace("selective_scan", params) if workspace is None else workspace
    if chunks:
        wanted = x.shape[0] * chunks * x.shape[2] * (past.shape[2] + 1) * 4
    buffer = poisoned(max(wanted // 4, 1), dtype=torch.float32)
    params.workspace, params.workspace_bytes = buffer.data_ptr(), wanted
    kernels.call("selective_scan", params, torch.cuda.current_stream().cuda_stream)
    return y, present


def check(name, results, args, lens=None, softplus=True, back=0):
    """`results`: one (y, present) or several for the same arguments."""
    dtype = args[0].dtype
    double = scan_reference(*args, lens, softplus, torch.float64, back)
    single = scan_reference(*args, lens, softplus, torch.float32, back)
    for y, present in results if isinstance(results, list) else [results]:
        assert_near(f"{name} y", y, single[0].to(dtype), double[0])
        assert_near(f"{name} present", present, single[1], double[1])
        if lens is not None:
            assert (y[~reference.lens_mask(lens, args[0].shape[1])] == 0).all(), f"{name}: padded tokens are not 0"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("states", [1, 8, 16, 17, 64, 128, 256])
@pytest.mark.parametrize(("length", "channels"), [(1, 200), (2, 33), (63, 200), (500, 1)])
def test_shapes(kernels, length, channels, states, dtype):
    torch.manual_seed(0)
    for optional, softplus in ((True, True), (False, False)):
        args = make(2 if channels > 1 else 50, length, channels, states, dtype=dtype, optional=optional)
        if not softplus:
            args[1] = (args[1].abs() * 0.1).to(dtype)
        results = [run(kernels, args, None, softplus, chunks, in_place=chunks == 3) for chunks in (0, 1, 3)]
        check(f"N={states}", results, args, softplus=softplus)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "channels"), [(1, 64), (1, 1536), (8, 256), (8, 1536), (6, 5120)])
def test_every_plan_of_16_states(kernels, batch, channels, dtype):
    torch.manual_seed(1)
    args = make(batch, 2049 if channels < 5120 else 300, channels, 16, dtype=dtype)
    check(f"B={batch} D={channels}", run(kernels, args), args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("groups", "channels"), [(2, 64), (4, 200), (3, 200), (8, 33)])
def test_groups(kernels, groups, channels, dtype):
    torch.manual_seed(2)
    for length in (1, 130):
        args = make(2, length, channels, 16, groups, dtype)
        check(f"G={groups} L={length}", [run(kernels, args, chunks=chunks) for chunks in (1, 4)], args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 70, 500])
@pytest.mark.parametrize("chunks", [1, 4])
def test_ragged(kernels, length, chunks, dtype):
    torch.manual_seed(3)
    lens = torch.tensor([0, 1, length // 2, length - 1, length], dtype=torch.int32, device="cuda")
    args = make(5, length, 40, 16, dtype=dtype)
    for i in (0, 1, 3, 4, 6):
        poison_padding(args[i], lens)
    results = [run(kernels, args, lens, chunks=chunks, in_place=in_place) for in_place in (False, True)]
    check(f"ragged L={length}", results, args, lens)
    for _, present in results:
        assert torch.equal(present[0], args[8][0]), "a row without tokens must keep its state"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "length", "channels", "groups", "back"),
    [
        (2, 1, 64, 2, 1),
        (3, 70, 200, 4, 2),
        (3, 500, 33, 8, 3),
        (2, 521, 1539, 3, 1),
        (1, 2049, 1536, 4, 2),
        (1, 2049, 1536, 1, 1),
        (5, 300, 5120, 2, 9),
    ],
)
def test_groups_that_run_backwards(kernels, batch, length, channels, groups, back, dtype):
    torch.manual_seed(10)
    args = make(batch, length, channels, 16, groups, dtype)
    check("whole rows", [run(kernels, args, chunks=chunks, back=back) for chunks in (0, 1, 4)], args, back=back)
    lens = torch.tensor([length - 1, 0, 1, length // 2, length][:batch], dtype=torch.int32, device="cuda")
    for i in (0, 1, 3, 4, 6):
        poison_padding(args[i], lens)
    ragged = [run(kernels, args, lens, chunks=chunks, in_place=True, back=back) for chunks in (0, 1, 4)]
    check("ragged rows", ragged, args, lens, back=back)


@pytest.mark.parametrize("dtype", DTYPES)
def test_slices_of_fused_projections(kernels, dtype):
    torch.manual_seed(4)
    args = make(2, 100, 192, 16, dtype=dtype)
    xz, dbc = randn(2, 100, 384, dtype=dtype), randn(2, 100, 1, 8 + 32, dtype=dtype)
    args[0], args[6] = xz[..., :192], xz[..., 192:]
    args[3], args[4] = dbc[..., 8:24], dbc[..., 24:]
    check("slices", [run(kernels, args, chunks=chunks) for chunks in (1, 3)], args)
    odd = randn(2, 100, 1, 33, dtype=dtype)
    args[3], args[4] = odd[..., 1:17], odd[..., 17:]
    check("unaligned slices", run(kernels, args), args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("length", "channels", "groups", "states"),
    [(256, 1584, 1, 16), (600, 1537, 1, 16), (521, 1539, 3, 13), (2049, 1536, 1, 16), (2049, 4096, 1, 16)],
)
def test_time_over_lanes(kernels, length, channels, groups, states, dtype):
    """What that kernel takes on a GPU of 132 multiprocessors; on others some of it."""
    torch.manual_seed(9)
    for optional in (True, False):
        args = make(1, length, channels, states, groups, dtype, optional)
        check(f"D={channels} N={states}", [run(kernels, args, in_place=in_place) for in_place in (False, True)], args)


@pytest.mark.parametrize("dtype", DTYPES)
def test_time_over_lanes_ragged(kernels, dtype):
    torch.manual_seed(10)
    lens = torch.tensor([0, 1, 520, 521], dtype=torch.int32, device="cuda")
    args = make(4, 521, 384, 16, 2, dtype)
    for i in (0, 1, 3, 4, 6):
        poison_padding(args[i], lens)
    y, present = run(kernels, args, lens)
    check("ragged", (y, present), args, lens)
    assert torch.equal(present[0], args[8][0]), "a row without tokens must keep its state"


@pytest.mark.parametrize("dtype", DTYPES)
def test_time_over_lanes_of_slices(kernels, dtype):
    torch.manual_seed(11)
    args = make(1, 530, 1536, 16, dtype=dtype)
    xz, bc = randn(1, 530, 3073, dtype=dtype), randn(1, 530, 1, 33, dtype=dtype)
    args[0], args[6] = xz[..., 1:1537], xz[..., 1537:]
    args[3], args[4] = bc[..., 1:17], bc[..., 17:]
    check("unaligned slices", run(kernels, args), args)
    xz, bc = randn(1, 530, 3072, dtype=dtype), randn(1, 530, 1, 48, dtype=dtype)
    args[0], args[6] = xz[..., :1536], xz[..., 1536:]
    args[3], args[4] = bc[..., 16:32], bc[..., 32:]
    check("aligned slices", run(kernels, args), args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [[1, 7, 64, 428], [1] * 2000])
def test_chunked_prefill_and_decode(kernels, sizes, dtype):
    torch.manual_seed(5)
    args = make(2, sum(sizes), 64, 16, dtype=dtype)
    state, parts, start = args[8], [], 0
    for size in sizes:
        part = [a[:, start : start + size].contiguous() if i in (0, 1, 3, 4, 6) else a for i, a in enumerate(args)]
        part[8], start = state, start + size
        y, state = run(kernels, part, in_place=True)
        parts.append(y)
    check(f"{len(sizes)} calls", (torch.cat(parts, 1), state), args)


def test_any_workspace_is_enough(kernels):
    torch.manual_seed(6)
    args = make(1, 1000, 64, 16)
    for workspace in (0, 64 * 17 * 4, 3 * 64 * 17 * 4 + 100):
        check(f"workspace {workspace}", run(kernels, args, workspace=workspace), args)


def test_extreme_steps(kernels):
    torch.manual_seed(7)
    args = make(1, 100, 64, 16)
    args[1] = torch.linspace(-90, 90, 6400, device="cuda").view(1, 100, 64).contiguous()
    check("dt from -90 to 90", run(kernels, args), args)


def test_graph_capture(kernels):
    torch.manual_seed(8)
    args = make(1, 1000, 64, 16, dtype=torch.bfloat16)
    y, present = poisoned(1, 1000, 64, dtype=torch.bfloat16), torch.full_like(args[8], reference.NAN)
    params = kernels.params("selective_scan", *args, None, y, present, True)
    params.workspace_bytes = kernels.workspace("selective_scan", params)
    assert params.workspace_bytes > 0
    buffer = poisoned(params.workspace_bytes // 4, dtype=torch.float32)
    params.workspace = buffer.data_ptr()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.call("selective_scan", params, torch.cuda.current_stream().cuda_stream)
    for _ in range(2):
        graph.replay()
    check("graph", (y, present), args)
