"""Which model is meant, and what its configuration says."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from seqexport.exporter.causal_lm import discover_states
from seqexport.exporter.explain import explained
from seqexport.exporter.models import (
    check_arch,
    check_capacity,
    default_capacity,
    eos_token_ids,
    family_of,
    position_limit,
    refuse_unsupported,
)
from seqexport.exporter.presets import PRESETS, resolve_source
from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import Family
from seqexport.runtimes.quiet import quiet
from tests.exporter.families import EXPORTED, SIZES, build, of


@pytest.mark.parametrize(
    ("model", "expected"),
    [("some/model", "some/model"), ("folder", "folder"), ("preset:transformer", str(PRESETS["transformer"]))],
)
def test_source(model: str, expected: str) -> None:
    assert resolve_source(model) == expected


def test_unknown_preset() -> None:
    with pytest.raises(UserError, match="preset 'nope': expected one of hybrid, mamba, mamba2, transformer"):
        resolve_source("preset:nope")


@pytest.mark.parametrize(("name", "family"), [("mamba", "mamba"), ("gpt2", "transformer"), ("jamba", "hybrid")])
def test_family(name: str, family: Family) -> None:
    assert family_of(discover_states(build(EXPORTED[name]))) == family


def test_arch_that_contradicts_the_model() -> None:
    config = LlamaConfig(**SIZES, architectures=["LlamaForCausalLM"], name_or_path="here")
    llama, mamba, mamba2 = (discover_states(build(EXPORTED[name])) for name in ("llama", "mamba", "mamba2"))
    check_arch("transformer", llama, config)
    check_arch(None, llama, config)
    for arch in ("mamba", "mamba2"):
        check_arch(arch, mamba2, config)
    expected = r"`arch=mamba`, but here is a LlamaForCausalLM \(transformer\); drop `arch` or pass a Mamba"
    with pytest.raises(UserError, match=expected):
        check_arch("mamba", llama, config)
    with pytest.raises(UserError, match=r"`arch=mamba2`, but .*; drop `arch` or pass a Mamba2 checkpoint"):
        check_arch("mamba2", mamba, config)


def test_eos_token_ids() -> None:
    model = build(EXPORTED["llama"])
    assert eos_token_ids(model) == ()
    model.config.eos_token_id = 7
    assert eos_token_ids(model) == (7,)
    model.generation_config.eos_token_id = [3, 5, 99]
    assert eos_token_ids(model) == (3, 5)


@pytest.mark.parametrize("ids", [[-1, "x"], "x", {"x": 1}, [[1]]])
def test_ends_of_text_that_are_no_tokens(ids: Any) -> None:
    """As a generation_config.json may have them; transformers looks at a config.json's itself."""
    config = SimpleNamespace(eos_token_id=None, vocab_size=9)
    model = SimpleNamespace(
        generation_config=SimpleNamespace(eos_token_id=ids), config=SimpleNamespace(get_text_config=lambda: config)
    )
    with pytest.raises(UserError, match=r"^SimpleNamespace ends texts with .*; expected tokens \(eos_token_id\)$"):
        eos_token_ids(model)


@pytest.mark.parametrize(
    ("name", "limit", "capacity"),
    [
        ("llama", None, 64),
        ("gpt2", 64, 64),
        ("opt", 64, 64),
        ("phi3_longrope", 48, 48),
        ("mamba", None, 4096),
    ],
)
def test_capacity(name: str, limit: int | None, capacity: int) -> None:
    model = build(EXPORTED[name])
    found = position_limit(model)
    assert (found and found[0]) == limit
    assert default_capacity(model) == capacity
    check_capacity(capacity, model)
    if limit is not None:
        with pytest.raises(UserError, match=f"`max_len` {limit + 1}: .* tokens; give at most {limit}"):
            check_capacity(limit + 1, model)


def test_capacity_of_nothing() -> None:
    with pytest.raises(UserError, match="`max_len` 0: expected at least 1"):
        check_capacity(0, build(EXPORTED["llama"]))


ROPE = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


def test_dynamic_rotary_embedding_limits_the_cache() -> None:
    assert position_limit(build(of("Llama", **SIZES, rope_parameters=ROPE))) == (
        64,
        "changes its rotary frequencies after",
    )


JETMOE = of("JetMoe", **SIZES, kv_channels=8, num_local_experts=2)
GPT_OSS = of("GptOss", **SIZES | {"head_dim": 8}, num_local_experts=4, num_experts_per_tok=2)


def odd_activation(module: Any) -> None:
    module.act_fn = nn.Tanh()


def spread(module: Any) -> None:
    module._is_expert_parallel = True


def quantised(module: Any) -> None:
    weights = module.down_proj.to(torch.float8_e4m3fn)
    module.down_proj = nn.Parameter(weights, requires_grad=False)


def test_experts_that_the_op_does_not_compute_are_refused() -> None:
    refuse_unsupported(build(EXPORTED["mixtral"]))
    for make, expected in (
        (JETMOE, r"layer 0 \(JetMoeParallelExperts\) do not go through transformers' experts interface"),
        (GPT_OSS, r"layer 0 \(GptOssExperts\) interleave gate and up"),
    ):
        with quiet(), pytest.raises(UserError, match=f"ForCausalLM: the experts of {expected}; such a mixture of"):
            refuse_unsupported(make())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (odd_activation, "have the activation Tanh, and the op has silu, gelu, gelu_tanh, relu, relu2"),
        (spread, "are spread over devices"),
        (quantised, r"are quantised \(torch.float8_e4m3fn\)"),
    ],
)
def test_one_layer_of_unknown_experts_is_named(change: Callable[[Any], None], expected: str) -> None:
    model = build(EXPORTED["mixtral"])
    change(model.model.layers[2].mlp.experts)
    with pytest.raises(UserError, match=rf"the experts of layer 2 \(MixtralExperts\) {expected}; such"):
        refuse_unsupported(model)


def test_more_experts_than_the_op_takes_are_refused() -> None:
    model = build(of("Mixtral", **SIZES | {"intermediate_size": 4}, num_local_experts=1025))
    with pytest.raises(UserError, match="has 1025 experts; Experts takes at most 1024"), explained(model):
        discover_states(model)


class Choosy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_a_layer_that_cannot_be_traced_is_named() -> None:
    model = build(EXPORTED["granite_hybrid"])
    model.model.layers[1].shared_mlp.activation = Choosy()
    expected = r"forward\(\) at line \d+ of its test_models.py, in layer 1 \(Choosy\), does what"
    with pytest.raises(UserError, match=expected), explained(model):
        discover_states(model)


def test_layer_of_unknown_ops_is_refused_only_where_there_is_one() -> None:
    dense = {**SIZES, "head_dim": 10, "mlp_only_layers": [0, 1, 2]}
    refuse_unsupported(build(of("Qwen3Next", **dense, layer_types=["full_attention"] * 3)))
    with pytest.raises(UserError, match=r"the op GatedDeltaRule, .* in layer 0 \(Qwen3NextGatedDeltaNet\)"):
        refuse_unsupported(build(of("Qwen3Next", **dense, layer_types=["linear_attention"] * 3)))


def test_states_of_another_shape_are_refused() -> None:
    zamba = of(
        "Zamba",
        **{**SIZES, "num_hidden_layers": 6, "attention_hidden_size": 48, "n_mamba_heads": 2},
        mamba_d_state=4,
        mamba_dt_rank=3,
        attn_layer_period=3,
        attn_layer_offset=1,
    )
    with pytest.raises(UserError, match="reads its recurrent_state twice in one call"):
        discover_states(build(zamba))
