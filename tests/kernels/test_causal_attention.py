import pytest
import reference
import torch
from reference import DTYPES, assert_near, attention_reference, poison_padding, poisoned, randn


class Case:
    """Random arguments of one call; the unused part of the cache and the padded tokens are NaN."""

    def __init__(self, length, past, heads=(4, 2), dims=(64, 64), dtype=torch.float16, lens=None, capacity=None):
        torch.manual_seed(0)
        self.past_lens = torch.tensor(past, dtype=torch.int32, device="cuda")
        self.lens = None if lens is None else torch.tensor(lens, dtype=torch.int32, device="cuda")
        batch, (query_heads, kv_heads), (key_dim, value_dim) = len(past), heads, dims
        capacity = capacity or max(past) + length + 5
        self.query = poison_padding(randn(batch, length, query_heads, key_dim, dtype=dtype), self.lens)
        self.key = poison_padding(randn(batch, length, kv_heads, key_dim, dtype=dtype), self.lens)
        self.value = poison_padding(randn(batch, length, kv_heads, value_dim, dtype=dtype), self.lens)
        self.past_key = randn(batch, kv_heads, capacity, key_dim, dtype=dtype)
        self.past_value = randn(batch, kv_heads, capacity, value_dim, dtype=dtype)
        for b, used in enumerate(past):
            self.past_key[b, :, used:] = self.past_value[b, :, used:] = reference.NAN

    def run(self, kernels, in_place=False, workspace=None, **options):
        past = self.past_key.clone(), self.past_value.clone()
        present = past if in_place else tuple(torch.full_like(t, 7.0) for t in past)
        y = poisoned(*self.query.shape[:3], self.value.shape[3], dtype=self.query.dtype)
        params = kernels.params(
            "causal_attention",
            self.query,
            self.key,
            self.value,
            *past,
            self.past_lens,
            self.lens,
            y,
            *present,
            **options,
        )
        params.workspace_bytes = kernels.workspace("causal_attention", params) if workspace is None else workspace
        buffer = poisoned(max(params.workspace_bytes // 4, 1), dtype=torch.float32)
        params.workspace = buffer.data_ptr()
        kernels.call("causal_attention", params, torch.cuda.current_stream().cuda_stream)
        return y, *present

    def reference(self, dtype, scale=None, window=0, softcap=0.0, splits=0):
        scale = self.query.shape[3] ** -0.5 if scale is None else scale
        return attention_reference(self.query, self.key, self.value, self.past_key, self.past_value, self.past_lens,
                                   self.lens, scale, window, softcap, dtype)  # fmt: skip

    def expected_cache(self, past, new):
        past = past.clone()
        for b, used in enumerate(self.past_lens.tolist()):
            count = min(new.shape[1] if self.lens is None else int(self.lens[b]), past.shape[2] - used)
            past[b, :, used : used + count] = new[b, :count].transpose(0, 1)
        return past

    def check(self, name, results, **options):
        double = self.reference(torch.float64, **options)
        same = self.reference(self.query.dtype, **options)
        for y, present_key, present_value in results:
            assert_near(name, y, same, double)
            if self.lens is not None:
                assert (y[~reference.lens_mask(self.lens, y.shape[1])] == 0).all(), f"{name}: padded tokens are not 0"
            for cache, past, new in (
                (present_key, self.past_key, self.key),
                (present_value, self.past_value, self.value),
            ):
                expected = self.expected_cache(past, new)
                bits = torch.int32 if cache.dtype == torch.float32 else torch.int16
                assert torch.equal(cache.view(bits), expected.view(bits)), f"{name}: the cache differs"


@pytest.fixture(autouse=True)
def exact_float32():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


DIMS = [
    (32, 32),
    (64, 64),
    (80, 80),
    (96, 96),
    (128, 128),
    (256, 256),
    (64, 128),
    (192, 128),
    (33, 17),
    (128, 8),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize(("length", "past"), [(1, [0, 300]), (2, [63, 1]), (63, [0, 5]), (200, [0, 77])])
def test_shapes(kernels, length, past, dims, dtype):
    case = Case(length, past, dims=dims, dtype=dtype)
    case.check(f"{dims}", [case.run(kernels, in_place) for in_place in (False, True)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(1, 1), (8, 1), (32, 8), (20, 1), (6, 3)])
@pytest.mark.parametrize(("length", "past"), [(1, [1000]), (7, [100]), (500, [0])])
def test_groups(kernels, length, past, heads, dtype):
    case = Case(length, past, heads, dtype=dtype)
    case.check(f"{heads}", [case.run(kernels)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{"window": 1}, {"window": 50}, {"softcap": 5.0}, {"window": 300, "softcap": 20.0},
                                     {"scale": 0.7}])  # fmt: skip
@pytest.mark.parametrize(("length", "past"), [(1, [700, 20]), (5, [0, 130]), (300, [0, 211])])
def test_window_softcap_scale(kernels, length, past, options, dtype):
    case = Case(length, past, dtype=dtype)
    case.check(f"{options}", [case.run(kernels, **options)], **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 6, 130])
def test_ragged(kernels, length, dtype):
    lens = [0, length, max(length - 1, 0), min(1, length), length // 2]
    case = Case(length, [10, 0, 300, 64, 129], dtype=dtype, lens=lens)
    case.check("ragged", [case.run(kernels, in_place) for in_place in (False, True)])
    case.check("window", [case.run(kernels, window=33)], window=33)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 3])
def test_any_splits_and_workspace(kernels, length, dtype):
    case = Case(length, [4097, 3], dtype=dtype)
    results = [case.run(kernels, splits=splits) for splits in (1, 2, 7, 100)]
    results += [
        case.run(kernels, workspace=0),
        case.run(kernels, workspace=3 * 2 * length * 4 * (64 * 4 + 8)),
    ]
    case.check("splits", results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 8, 200])
def test_never_writes_past_the_capacity(kernels, length, dtype):
    case = Case(length, [95, 100], dtype=dtype, capacity=100)
    guard = [torch.full((4 * 100 * 64 + 4096,), 3.0, device="cuda", dtype=dtype) for _ in range(2)]
    caches = [g[2048:-2048].view(2, 2, 100, 64) for g in guard]
    caches[0].copy_(case.past_key)
    caches[1].copy_(case.past_value)
    y = poisoned(2, length, 4, 64, dtype=dtype)
    params = kernels.params(
        "causal_attention", case.query, case.key, case.value, *caches, case.past_lens, None, y, *caches
    )
    kernels.call("causal_attention", params, torch.cuda.current_stream().cuda_stream)
    case.check("full cache", [(y, *caches)])
    assert all((g[:2048] == 3).all() and (g[-2048:] == 3).all() for g in guard)


HALVES = [torch.float16, torch.bfloat16]
GAINS = {  # of a key's position, in nats; a tile is 64 keys, or 32 at 256 dimensions
    "rises by more than 2^8 a tile": lambda position: 0.5 * position,
    "rises by less than 2^8 a tile": lambda position: 0.05 * position,
    "falls": lambda position: -0.5 * position,
    "first key": lambda position: 60.0 * (position == 0),
    "a late tile": lambda position: 60.0 * (position >= 256),
    "one key a tile": lambda position: 0.2 * position * (position % 64 == 41),
}


def aim(case, gain):
    """Adds gain(position) to the scores of each key, along a direction that all queries share."""
    width, dtype = case.query.shape[3], case.query.dtype
    direction = torch.nn.functional.normalize(randn(width), dim=0)
    case.query += (width**0.5 * direction).to(dtype)
    for b, used in enumerate(case.past_lens.tolist()):
        position = torch.arange(used + case.key.shape[1], device=direction.device)
        along = (gain(position)[:, None] * direction).to(dtype)
        case.past_key[b, :, :used] += along[:used]
        case.key[b] += along[used:, None]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("dims", [(64, 64), (128, 128), (256, 256)])
@pytest.mark.parametrize(("length", "past"), [(1, [5, 400]), (300, [0, 77])])
@pytest.mark.parametrize("gain", GAINS.values(), ids=list(GAINS))
def test_peaked_scores(kernels, gain, length, past, dims, dtype):
    case = Case(length, past, dims=dims, dtype=dtype)
    aim(case, gain)
    case.check("peaked", [case.run(kernels)])
    case.check("window", [case.run(kernels, window=90)], window=90)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("dims", [(64, 64), (128, 128), (256, 256)])
@pytest.mark.parametrize("options", [{}, {"window": 90}, {"softcap": 20.0}])
@pytest.mark.parametrize("gain", GAINS.values(), ids=list(GAINS))
def test_prefill_weights_sum_to_one_exactly(kernels, gain, options, dims, dtype):
    case = Case(300, [0, 77], dims=dims, dtype=dtype)
    aim(case, gain)
    case.value.fill_(1)
    for b, used in enumerate(case.past_lens.tolist()):
        case.past_value[b, :, :used] = 1
    y, _, _ = case.run(kernels, **options)
    assert (y == 1).all(), f"from {y.min().item()} to {y.max().item()}"


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("dims", [(64, 64), (128, 128), (256, 256)])
@pytest.mark.parametrize("window", [1, 31, 32, 33, 63, 64, 65, 97, 128, 129])
def test_windows_that_leave_tiles_to_some_warps(kernels, window, dims, dtype):
    case = Case(300, [0, 211], dims=dims, dtype=dtype)
    case.check(f"window {window}", [case.run(kernels, window=window)], window=window)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("dims", [(64, 64), (80, 80), (96, 96), (128, 64), (256, 256)])
@pytest.mark.parametrize("spare", [0, 6000])
@pytest.mark.parametrize("past", [[1, 63, 40], [64, 65, 0], [127, 190, 129]])
def test_cache_is_written_from_tiles_that_hold_old_and_new_keys(kernels, past, spare, dims, dtype):
    case = Case(200, past, (8, 2), dims, dtype, lens=[200, 130, 1], capacity=max(past) + 200 + spare)
    case.check(f"{past}", [case.run(kernels, in_place) for in_place in (False, True)])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("section", [1, 4, 6])
def test_heads_in_sections_that_fit_the_cache(kernels, section, dtype):
    half = torch.cuda.get_device_properties(0).L2_cache_size // 2
    case = Case(200, [0, 77], (12, 3), (128, 128), dtype, capacity=max(half // section // (2 * 2 * 128), 300))
    case.check(f"{section} kv heads a section", [case.run(kernels, in_place=True)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_slice_of_a_fused_projection(kernels, dtype):
    case = Case(100, [0, 30], heads=(8, 2), dtype=dtype)
    fused = randn(2, 100, 12 * 64, dtype=dtype).view(2, 100, 12, 64)
    case.query, case.key, case.value = fused[:, :, :8], fused[:, :, 8:10], fused[:, :, 10:]
    case.check("fused", [case.run(kernels)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [[1, 7, 64, 428], [1] * 2000])
def test_chunked_prefill_and_decode(kernels, sizes, dtype):
    total = sum(sizes)
    whole = Case(total, [0, 0], heads=(2, 1), dims=(32, 32), dtype=dtype)
    caches = whole.past_key.clone(), whole.past_value.clone()
    parts, start = [], 0
    scratch = poisoned(1 << 18, dtype=torch.float32)
    for size in sizes:
        q, k, v = (t[:, start : start + size].contiguous() for t in (whole.query, whole.key, whole.value))
        y = poisoned(2, size, 2, 32, dtype=dtype)
        past = torch.full((2,), start, dtype=torch.int32, device="cuda")
        params = kernels.params("causal_attention", q, k, v, *caches, past, None, y, *caches)
        params.workspace, params.workspace_bytes = scratch.data_ptr(), 1 << 20
        kernels.call("causal_attention", params, torch.cuda.current_stream().cuda_stream)
        parts.append(y)
        start += size
    whole.check(f"{len(sizes)} calls", [(torch.cat(parts, 1), *caches)])


@pytest.mark.parametrize("length", [1, 200])
def test_graph_capture(kernels, length):
    case = Case(length, [2000], heads=(32, 8))
    caches = case.past_key.clone(), case.past_value.clone()
    present = tuple(torch.zeros_like(c) for c in caches)
    y = poisoned(1, length, 32, 64, dtype=torch.float16)
    params = kernels.params(
        "causal_attention", case.query, case.key, case.value, *caches, case.past_lens, None, y, *present
    )
    params.workspace_bytes = kernels.workspace("causal_attention", params)
    buffer = poisoned(max(params.workspace_bytes // 4, 1), dtype=torch.float32)
    params.workspace = buffer.data_ptr()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.call("causal_attention", params, torch.cuda.current_stream().cuda_stream)
    for _ in range(2):
        graph.replay()
    case.check("graph", [(y, *present)])
