"""TopKRouter: what transformers' routers choose, and with which weights."""

import pytest
import torch

from seqexport.plugins.ops import OPS
from tests.ops.conformance import (
    BACKENDS,
    UNIT_ROUNDOFF,
    assert_as_accurate_as_torch,
    relative_error,
    run_float64,
    run_reference,
)

OP = OPS["TopKRouter"]


def make(batch=2, length=5, E=6, bias=True, dtype=torch.float32, seed=0):
    """Logits near those of a grid, and biases on one, so that hardly a rounding decides which expert a token takes."""
    g = torch.Generator().manual_seed(seed)
    order = torch.rand(batch, length, E, generator=g).argsort(-1)
    return {
        "logits": ((order + torch.rand(order.shape, generator=g) / 4) * (6.0 / E) - 3).to(dtype),
        "bias": torch.randint(-3, 4, (E,), generator=g) / 16 if bias else None,
    }


def check(values, dtype=torch.float32, **attributes):
    true, plain = run_float64(OP, values, attributes), run_reference(OP, values, attributes)
    for run in BACKENDS:
        ours = run(OP, values, attributes)
        assert [y.dtype for y in ours] == [torch.int32, torch.float32]
        assert_same_choice(values, ours[0], attributes)
        where = [weights_of(each, values, attributes) for each in (ours, plain, true)]
        assert_as_accurate_as_torch([where[0]], [where[1]], [where[2]], torch.float32)


def ranked(values, attributes):
    """Scores as they are compared, in float64."""
    logits = values["logits"].double()
    scores = logits.softmax(-1) if attributes.get("score", "softmax") == "softmax" else logits.sigmoid()
    return scores, scores if values["bias"] is None else scores + values["bias"]


def assert_same_choice(values, chosen, attributes):
    """Each token's scores are those of the float64 choice, but for such that float32 cannot tell apart."""
    _, ranks = ranked(values, attributes)
    (true, _) = run_float64(OP, values, attributes)
    assert chosen.shape == true.shape
    for each in chosen.flatten(0, 1):
        assert len(each.unique()) == each.numel()
    torch.testing.assert_close(ranks.gather(-1, chosen.long()), ranks.gather(-1, true.long()), rtol=0, atol=1e-6)


def weights_of(answer, values, attributes):
    """[B,L,E]: each expert's weight, 0 where it was not chosen."""
    chosen, weight = answer
    return torch.zeros(values["logits"].shape, dtype=weight.dtype).scatter(-1, chosen.long(), weight)


@pytest.mark.parametrize("length", [1, 2, 63, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_lengths(length, dtype, score):
    check(make(length=length, E=16, bias=False, dtype=dtype), dtype, k=3, score=score)


@pytest.mark.parametrize(("E", "k"), [(2, 2), (5, 3), (33, 1), (64, 64), (512, 22), (1000, 200)])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_sizes(E, k, score):
    check(make(E=E), k=k, score=score)


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
def test_one_expert(run):
    chosen, weight = run(OP, make(E=1, bias=False), {})
    assert (chosen == 0).all()
    assert (weight == 1).all()


@pytest.mark.parametrize("normalised", [0, 1])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("bias", [False, True])
def test_forms(normalised, score, bias):
    check(make(E=12, bias=bias), k=4, score=score, normalised=normalised, epsilon=1e-3, scale=2.5)


@pytest.mark.parametrize(
    ("E", "groups", "kept_groups", "k"), [(8, 4, 2, 3), (8, 8, 3, 3), (12, 2, 1, 6), (256, 8, 4, 8), (9, 3, 3, 9)]
)
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_groups(E, groups, kept_groups, k, score):
    values = make(E=E, bias=False, seed=3)
    attributes = {"k": k, "score": score, "groups": groups, "kept_groups": kept_groups, "normalised": 1}
    check(values, **attributes)
    for run in BACKENDS:
        chosen, _ = run(OP, values, attributes)
        of_groups = (chosen // (E // groups)).flatten(0, 1)
        assert all(len(each.unique()) <= kept_groups for each in of_groups)


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
def test_equal_scores_are_taken_in_the_experts_order(run):
    values = {"logits": torch.zeros(2, 3, 40), "bias": None}
    chosen, weight = run(OP, values, {"k": 7, "score": "sigmoid"})
    assert torch.equal(chosen, torch.arange(7, dtype=torch.int32).expand(2, 3, 7))
    assert (weight == 0.5).all()


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
def test_a_bias_chooses_and_does_not_weigh(run):
    values = {"logits": torch.tensor([[[2.0, 1.0, 0.0, -1.0]]]), "bias": torch.tensor([0.0, 0.0, 0.0, 5.0])}
    chosen, weight = run(OP, values, {"k": 2, "score": "sigmoid"})
    assert chosen.tolist() == [[[3, 0]]]
    torch.testing.assert_close(weight, torch.tensor([[[-1.0, 2.0]]]).sigmoid())


@pytest.mark.parametrize("run", [run_reference, *BACKENDS])
def test_weights_without_a_sum_stay_finite_by_epsilon(run):
    values = {"logits": torch.full((1, 2, 4), -1e4), "bias": None}
    _, weight = run(OP, values, {"k": 2, "score": "sigmoid", "normalised": 1, "epsilon": 1e-20})
    assert torch.equal(weight, torch.zeros(1, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_extremes(dtype):
    """Logits at the ends of their type, and infinities that a softmax or a sigmoid takes."""
    largest = torch.finfo(dtype).max
    ends = torch.tensor([largest, -largest, 1e4, -1e4, 0.0, -0.0, torch.finfo(dtype).tiny / 4, -torch.inf]).to(dtype)
    values = {"logits": torch.stack([ends, ends.flip(0)])[None], "bias": None}
    for score in ("softmax", "sigmoid"):
        true = run_float64(OP, values, {"k": 1, "score": score})[1]
        for run in BACKENDS:
            (_, weight) = run(OP, values, {"k": 1, "score": score})
            assert relative_error(weight, true) <= 2 * UNIT_ROUNDOFF[torch.float32]


def test_what_is_not_a_number_is_not_hidden():
    logits = torch.randn(1, 2, 8)
    logits[0, 1, 5] = torch.nan
    chosen, weight = run_reference(OP, {"logits": logits, "bias": None}, {"k": 2, "score": "sigmoid"})
    assert chosen[0, 1, 0] == 5
    assert torch.isnan(weight[0, 1, 0])
    assert torch.isfinite(weight[0, 0]).all()


def test_outputs_are_those_of_transformers():
    """The routers of Mixtral, and with groups and a bias of Nemotron-H."""
    from transformers import MixtralConfig, NemotronHConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHTopkRouter

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    x = torch.randn(7, 24)
    mixtral = MixtralTopKRouter(MixtralConfig(num_local_experts=6, num_experts_per_tok=2, **sizes))
    torch.nn.init.normal_(mixtral.weight)
    own = {"n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "norm_topk_prob": True}
    nemotron = NemotronHTopkRouter(
        NemotronHConfig(routed_scaling_factor=2.5, layers_block_type=["mamba"], **own, **sizes)
    )
    torch.nn.init.normal_(nemotron.weight)
    nemotron.e_score_correction_bias.normal_(std=0.3)
    grouped = {"groups": 4, "kept_groups": 2, "scale": 2.5, "epsilon": 1e-20, "k": 3, "score": "sigmoid"}
    for router, bias, attributes in (
        (mixtral, None, {"k": 2, "normalised": 1}),
        (nemotron, nemotron.e_score_correction_bias, {"normalised": 1, **grouped}),
    ):
        logits, weight, chosen = router(x)
        values = {"logits": logits.detach()[None], "bias": bias}
        expected = weights_of((chosen[None], weight.detach()[None]), values, attributes)
        for run in (run_reference, *BACKENDS):
            torch.testing.assert_close(weights_of(run(OP, values, attributes), values, attributes), expected)
