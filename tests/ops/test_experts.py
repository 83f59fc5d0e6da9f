import pytest
import torch

from seqexport.plugins.ops import OPS, experts
from seqexport.plugins.ops.experts import ACTIVATIONS
from tests.ops.conformance import BACKENDS, assert_as_accurate_as_torch, run_float64, run_reference

OP = OPS["Experts"]


def product_by_product(rows, weight, bias):
    """``functional.linear`` summing one product after another, as some of ONNX Runtime's products are."""
    sums = torch.zeros(len(rows), len(weight), dtype=rows.dtype)
    for column, weights in zip(rows.T, weight.T, strict=True):
        sums += column[:, None] * weights
    return sums if bias is None else sums + bias


def check(values, dtype=torch.float32, **attributes):
    true = run_float64(OP, values, attributes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experts.functional, "linear", product_by_product)
        plain = run_reference(OP, values, attributes)
    for run in BACKENDS:
        assert_as_accurate_as_torch(run(OP, values, attributes), plain, true, dtype)


def make(batch=2, length=3, D=24, E=6, k=2, F=20, gated=1, biases=True, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)

    def random(*shape, scale=1.0):
        return (torch.randn(*shape, generator=g) * scale).to(dtype)

    U = 2 * F if gated else F
    scores = torch.rand(batch, length, max(E, k), generator=g)
    return {
        "x": random(batch, length, D),
        "chosen": scores.topk(k).indices.remainder(E).int(),
        "weight": torch.rand(batch, length, k, generator=g) / k,
        "gate_up": random(E, U, D, scale=D**-0.5),
        "down": random(E, D, F, scale=F**-0.5),
        "gate_up_bias": random(E, U) if biases else None,
        "down_bias": random(E, D) if biases else None,
    }


@pytest.mark.parametrize("length", [1, 2, 63, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lengths(length, dtype):
    check(make(length=length, dtype=dtype), dtype)


@pytest.mark.parametrize(
    ("D", "E", "k", "F"), [(1, 1, 1, 1), (7, 3, 3, 5), (33, 512, 16, 9), (24, 2, 5, 8), (130, 8, 2, 257)]
)
def test_sizes(D, E, k, F):
    """Where k is above E, some tokens choose an expert more than once."""
    check(make(D=D, E=E, k=k, F=F))


@pytest.mark.parametrize("gated", [0, 1])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("biases", [False, True])
def test_forms(gated, activation, biases):
    check(make(gated=gated, biases=biases), gated=gated, activation=activation)


def test_an_index_outside_contributes_nothing():
    values = make(batch=1, length=4, E=5, k=3)
    values["chosen"][0] = torch.tensor([[-1, 5, 2], [2**31 - 1, -(2**31), -5], [0, -1, 0], [4, 3, 2]])
    check(values)
    inside = values | {"weight": values["weight"].where((values["chosen"] >= 0) & (values["chosen"] < 5), 0)}
    inside["chosen"] = values["chosen"].clamp(0, 4)
    for run in [run_reference, *BACKENDS]:
        (y,) = run(OP, values)
        torch.testing.assert_close(y, run(OP, inside)[0])
        assert (y[0, 1] == 0).all()


def test_experts_that_no_token_chose_are_not_read():
    values = make(E=6)
    values["chosen"] = values["chosen"].remainder(3)
    poisoned = {k: v.clone() for k, v in values.items()}
    for name in ("gate_up", "down", "gate_up_bias", "down_bias"):
        poisoned[name][3:] = torch.nan
    for run in [run_reference, *BACKENDS]:
        assert torch.equal(run(OP, poisoned)[0], run(OP, values)[0])


@pytest.mark.parametrize("gated", [0, 1])
def test_outputs_are_those_of_transformers(gated):
    """The experts of Mixtral, and those without a gate of Nemotron-H, in their eager form."""
    from transformers import MixtralConfig, NemotronHConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

    sizes = {"hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    if gated:
        module = MixtralExperts(MixtralConfig(intermediate_size=20, num_local_experts=6, **sizes))
    else:
        own = {"moe_intermediate_size": 20, "n_routed_experts": 6, "layers_block_type": ["mamba"]}
        module = NemotronHExperts(NemotronHConfig(mlp_hidden_act="relu2", **own, **sizes))
    module = module.double()
    module.config._experts_implementation = "eager"
    values = make(gated=gated, biases=False, dtype=torch.float64)
    names = {"gate_up": "gate_up_proj" if gated else "up_proj", "down": "down_proj"}
    with torch.no_grad():
        for ours, theirs in names.items():
            getattr(module, theirs).copy_(values[ours])
        chosen, weight = values["chosen"].flatten(0, 1).long(), values["weight"].double().flatten(0, 1)
        expected = module(values["x"].flatten(0, 1), chosen, weight).view(values["x"].shape)
    (y,) = run_float64(OP, values, {"gated": gated, "activation": "silu" if gated else "relu2"})
    torch.testing.assert_close(y, expected)
