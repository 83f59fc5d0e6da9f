import pytest
import torch

from seqexport.plugins.ops import OPS
from tests.ops.conformance import BACKENDS, assert_as_accurate_as_torch, run_float64, run_reference

OP = OPS["Linear"]


def make(batch=2, length=3, K=16, features=(24, 8, 5), biases=(True, False, True), dtype=torch.float32, seed=0):
    """``features`` of the projections that there are, up to three."""
    g = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=g).to(dtype)

    values = {"x": random(batch, length, K)}
    for i, suffix in enumerate(("", "1", "2")):
        N = features[i] if i < len(features) else None
        values[f"weight{suffix}"] = None if N is None else random(N, K)
        values[f"bias{suffix}"] = random(N) if N is not None and biases[i] else None
    return values


def in_sequence(values):
    """Sums one product after another, as some of ONNX Runtime's products are; PyTorch's have several sums at a time."""
    x, outputs = values["x"].float(), []
    for suffix in ("", "1", "2"):
        weight, bias = values[f"weight{suffix}"], values[f"bias{suffix}"]
        if weight is not None:
            y = torch.zeros(*x.shape[:2], weight.shape[0])
            for k in range(x.shape[2]):
                y += x[..., k : k + 1] * weight[:, k].float()
            outputs.append((y if bias is None else y + bias).to(values["x"].dtype))
    return outputs


def check(values, dtype=torch.float32):
    true, plain = run_float64(OP, values), in_sequence(values)
    for run in BACKENDS:
        assert_as_accurate_as_torch(run(OP, values), plain, true, dtype)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 63, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lengths(length, dtype):
    check(make(length=length, K=96, features=(64, 32, 16), dtype=dtype), dtype)


@pytest.mark.parametrize(("K", "features"), [(1, (1,)), (7, (3, 5)), (33, (100,)), (768, (80, 16, 16)), (2048, (48,))])
def test_sizes(K, features):
    check(make(batch=1, length=1, K=K, features=features))


@pytest.mark.parametrize("features", [(24,), (24, 8), (24, 8, 5)])
@pytest.mark.parametrize("biases", [(False,) * 3, (True,) * 3, (False, True, False)])
def test_a_projection_for_each_weight(features, biases):
    values = make(features=features, biases=biases)
    outputs = run_reference(OP, values)
    assert [output.shape[-1] for output in outputs] == list(features)
    check(values)


def test_outputs_are_those_of_torch():
    values = make(dtype=torch.float64)
    y, y1, y2 = run_reference(OP, values)
    torch.testing.assert_close(y, torch.nn.functional.linear(values["x"], values["weight"], values["bias"]))
    torch.testing.assert_close(y1, torch.nn.functional.linear(values["x"], values["weight1"]))
    torch.testing.assert_close(y2, torch.nn.functional.linear(values["x"], values["weight2"], values["bias2"]))


def test_output_names_follow_the_weights():
    assert OP.output_names({"x", "weight"}) == ("y",)
    assert OP.output_names({"x", "weight", "weight1", "bias1"}) == ("y", "y1")
