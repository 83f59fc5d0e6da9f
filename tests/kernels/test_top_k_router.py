import pytest
import torch
from reference import DEVICE, DTYPES, assert_near

from seqexport.plugins.ops import OPS

REFERENCE = OPS["TopKRouter"].reference
STREAM = torch.cuda.current_stream


def grid(rows, E, dtype):
    """[1,rows,E]: logits that float32 tells apart, as far as the dtype does."""
    order = torch.rand(1, rows, E, device=DEVICE).argsort(-1)
    return (order * (6.0 / E) - 3).to(dtype)


def run(kernels, logits, bias, **attributes):
    rows, k = logits.shape[1], attributes["k"]
    chosen = torch.full((1, rows, k), -1, dtype=torch.int32, device=DEVICE)
    weight = torch.full((1, rows, k), torch.nan, device=DEVICE)
    params = kernels.params("top_k_router", logits, bias, chosen, weight, **attributes)
    kernels.call("top_k_router", params, STREAM().cuda_stream)
    return chosen, weight


def check(kernels, logits, bias, **attributes):
    chosen, weight = run(kernels, logits, bias, **attributes)
    expected, plain = REFERENCE(logits, bias, **attributes)
    _, true = REFERENCE(logits.double(), bias, **attributes)
    assert torch.equal(chosen, expected)
    assert_near(f"{attributes}", weight, plain, true)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 63, 500, 2049])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_rows(kernels, rows, score, dtype):
    torch.manual_seed(0)
    check(kernels, grid(rows, 32, dtype), None, k=4, score=score, normalised=1, scale=2.5)


@pytest.mark.parametrize(("E", "k"), [(1, 1), (2, 2), (5, 3), (33, 1), (64, 64), (512, 22), (1024, 256)])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_sizes(kernels, E, k, score):
    torch.manual_seed(1)
    check(kernels, grid(9, E, torch.float32), torch.arange(E, device=DEVICE) % 7 / 64 * 6 / E, k=k, score=score)


@pytest.mark.parametrize(
    ("E", "groups", "kept_groups", "k"), [(8, 4, 2, 3), (8, 8, 3, 3), (12, 2, 1, 6), (256, 8, 4, 8), (1024, 1024, 9, 9)]
)
def test_groups(kernels, E, groups, kept_groups, k):
    torch.manual_seed(2)
    attributes = {"k": k, "score": "sigmoid", "groups": groups, "kept_groups": kept_groups, "normalised": 1}
    check(kernels, grid(70, E, torch.float32), None, **attributes)


def test_what_is_no_number_and_equal_scores(kernels):
    logits = torch.zeros(1, 3, 40, device=DEVICE)
    logits[0, 1, 35] = torch.nan
    chosen, weight = run(kernels, logits, None, k=3, score="sigmoid")
    assert chosen.tolist() == [[[0, 1, 2], [35, 0, 1], [0, 1, 2]]]
    assert torch.isnan(weight[0, 1, 0])
    assert (weight[0, [0, 2]] == 0.5).all()
