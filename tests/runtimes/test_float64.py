"""Float64 arithmetic against models written by hand in float64, and against every way to a narrower dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from seqexport.plugins.errors import UserError
from seqexport.plugins.ops import causal_attention, causal_conv1d, selective_scan, ssd_scan
from seqexport.runtimes.pytorch.float64 import float64_arithmetic
from tests.runtimes.tiny import NAMES, VOCAB, make

Weights = dict[str, Tensor]
LENGTH = 12


def rms(x: Tensor, eps: float, weight: Tensor | float = 1.0) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def mamba(w: Weights, config: Any, ids: Tensor) -> Tensor:
    x = w["backbone.embeddings.weight"][ids]
    mixer = mamba2_mixer if config.model_type == "mamba2" else mamba_mixer
    for i in range(config.num_hidden_layers):
        x = x + mixer(w, f"backbone.layers.{i}.mixer.", config, rms(x, 1e-5, w[f"backbone.layers.{i}.norm.weight"]))
    return rms(x, 1e-5, w["backbone.norm_f.weight"]) @ w["lm_head.weight"].T


def mamba_mixer(w: Weights, p: str, config: Any, x: Tensor) -> Tensor:
    batch, N, rank = x.shape[0], config.state_size, int(config.time_step_rank)
    inner, gate = (x @ w[p + "in_proj.weight"].T).chunk(2, dim=-1)
    D, K = w[p + "conv1d.weight"].shape[0], config.conv_kernel
    inner, _ = causal_conv1d.reference(
        inner, w[p + "conv1d.weight"][:, 0], w[p + "conv1d.bias"], x.new_zeros(batch, D, K - 1), None, "silu"
    )
    dt, B, C = (inner @ w[p + "x_proj.weight"].T).split([rank, N, N], dim=-1)
    if config.model_type == "falcon_mamba":
        dt, B, C = (rms(part, config.mixer_rms_eps) for part in (dt, B, C))
    dt = dt @ w[p + "dt_proj.weight"].T
    A, bias = -torch.exp(w[p + "A_log"]), w[p + "dt_proj.bias"]
    past = x.new_zeros(batch, D, N)
    y, _ = selective_scan.reference(inner, dt, A, B[:, :, None], C[:, :, None], w[p + "D"], gate, bias, past, None, 1)
    return y @ w[p + "out_proj.weight"].T


def mamba2_mixer(w: Weights, p: str, config: Any, x: Tensor) -> Tensor:
    batch, length, H, P, G, N = *x.shape[:2], config.num_heads, config.head_dim, config.n_groups, config.state_size
    gate, inner, dt = (x @ w[p + "in_proj.weight"].T).split([H * P, H * P + 2 * G * N, H], dim=-1)
    past = x.new_zeros(batch, inner.shape[-1], config.conv_kernel - 1)
    inner, _ = causal_conv1d.reference(inner, w[p + "conv1d.weight"][:, 0], w[p + "conv1d.bias"], past, None, "silu")
    inner, B, C = inner.split([H * P, G * N, G * N], dim=-1)
    groups, A = (batch, length, G, N), -torch.exp(w[p + "A_log"])
    low, high = config.time_step_limit
    y, _ = ssd_scan.reference(
        inner.view(batch, length, H, P), dt, A, B.view(groups), C.view(groups), w[p + "D"], None, w[p + "dt_bias"],
        x.new_zeros(batch, H, P, N), None, 1, low, high,
    )  # fmt: skip
    y = (y.flatten(2) * functional.silu(gate)).view(batch, length, G, -1)
    return (rms(y, 1e-5).flatten(2) * w[p + "norm.weight"]) @ w[p + "out_proj.weight"].T


def transformer(w: Weights, config: Any, ids: Tensor) -> Tensor:
    gemma = config.model_type == "gemma2"
    eps = config.rms_norm_eps

    def norm(x: Tensor, name: str) -> Tensor:
        return rms(x, eps, w[name + ".weight"] + (1 if gemma else 0))

    x = w["model.embed_tokens.weight"][ids]
    x = x * torch.tensor(config.hidden_size**0.5, dtype=torch.float32).double() if gemma else x
    for i in range(config.num_hidden_layers):
        p = f"model.layers.{i}."
        window = config.sliding_window if gemma and config.layer_types[i] == "sliding_attention" else 0
        y = attention(w, p + "self_attn.", config, norm(x, p + "input_layernorm"), window)
        x = x + (norm(y, p + "post_attention_layernorm") if gemma else y)
        y = norm(x, p + ("pre_feedforward_layernorm" if gemma else "post_attention_layernorm"))
        up, gate = y @ w[p + "mlp.up_proj.weight"].T, y @ w[p + "mlp.gate_proj.weight"].T
        gate = functional.gelu(gate, approximate="tanh") if gemma else gate * torch.sigmoid(gate)
        y = (gate * up) @ w[p + "mlp.down_proj.weight"].T
        x = x + (norm(y, p + "post_feedforward_layernorm") if gemma else y)
    logits = norm(x, "model.norm") @ w["lm_head.weight"].T
    cap = config.final_logit_softcapping if gemma else None
    return cap * torch.tanh(logits / cap) if cap else logits


def attention(w: Weights, p: str, config: Any, x: Tensor, window: int) -> Tensor:
    batch, length, size = x.shape[0], x.shape[1], config.head_dim
    q, k, v = ((x @ w[f"{p}{name}_proj.weight"].T).view(batch, length, -1, size) for name in "qkv")
    frequency = 1 / config.rope_parameters["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    angle = torch.arange(length, dtype=torch.float64)[:, None, None] * frequency.double()  # weights, as the original
    q, k = rotate(q, angle), rotate(k, angle)
    scale = config.query_pre_attn_scalar**-0.5 if config.model_type == "gemma2" else size**-0.5
    softcap = getattr(config, "attn_logit_softcapping", None) or 0.0
    empty = x.new_zeros(batch, config.num_key_value_heads, length, size)
    none = torch.zeros(batch, dtype=torch.int32)
    y, _, _ = causal_attention.reference(q, k, v, empty, empty, none, None, scale, window, softcap)
    return y.reshape(batch, length, -1) @ w[p + "o_proj.weight"].T


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


def by_hand(model: PreTrainedModel, ids: Tensor) -> Tensor:
    weights = {name: value.detach().double() for name, value in model.state_dict().items()}
    forward = mamba if "mamba" in model.config.model_type else transformer
    return forward(weights, model.config, ids)


def run(model: PreTrainedModel, ids: Tensor) -> Any:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=True)


def state_tensors(outputs: Any) -> list[Tensor]:
    cache: DynamicCache = outputs.get("past_key_values") or outputs.get("cache_params")
    found = [vars(layer).get(name) for layer in cache.layers for name in ("keys", "values")]
    for layer in cache.layers:
        found += [
            *getattr(layer, "conv_states", {}).values(),
            *getattr(layer, "recurrent_states", {}).values(),
        ]
    return [tensor for tensor in found if tensor is not None]


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_model_written_by_hand(name: str, dtype: torch.dtype, ids: Tensor) -> None:
    model = make(name, dtype)
    if dtype == torch.bfloat16 and name == "gemma2":
        model.model.embed_tokens.embed_scale = model.model.embed_tokens.embed_scale.float()
        model.model.embed_tokens.embed_scale.fill_(model.config.hidden_size**0.5)
    for module in model.modules():  # .to(dtype) rounds what from_pretrained leaves in float32
        if hasattr(module, "inv_freq"):
            size = model.config.head_dim
            theta = model.config.rope_parameters["rope_theta"]
            module.inv_freq = 1 / theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    with float64_arithmetic():
        outputs = run(model, ids)
    expected = by_hand(model, ids)
    assert outputs.logits.dtype == torch.float64
    assert (outputs.logits - expected).norm() <= 1e-12 * expected.norm()
    states = state_tensors(outputs)
    assert states
    assert {state.dtype for state in states} == {torch.float64}


@pytest.mark.parametrize("name", NAMES)
def test_leaves_the_model_and_torch_as_they_were(name: str, ids: Tensor) -> None:
    model = make(name)
    before = {key: (value.dtype, value.clone()) for key, value in model.state_dict().items()}
    plain = run(model, ids).logits
    with float64_arithmetic():
        run(model, ids)
    assert torch.get_default_dtype() == torch.float32
    for key, value in model.state_dict().items():
        assert value.dtype == before[key][0]
        assert torch.equal(value, before[key][1])
    assert torch.equal(run(model, ids).logits, plain)


X = torch.tensor([0.1, 0.2, 0.7])


@pytest.mark.parametrize(
    "compute",
    [
        lambda: X + 1,
        lambda: X.float(),
        lambda: X.half(),
        lambda: X.to(torch.float32),
        lambda: X.to(dtype=torch.bfloat16),
        lambda: X.type(torch.float16),
        lambda: X.type_as(torch.zeros(1, dtype=torch.float16)),
        lambda: X.long().float(),
        lambda: X.to(X.dtype),
        lambda: X.softmax(-1, dtype=torch.float32),
        lambda: functional.softmax(X, dim=-1, dtype=torch.float32),
        lambda: X[1:],
        lambda: functional.embedding(torch.tensor([0]), X[:, None]),
        lambda: torch.zeros(3),
        lambda: torch.full((2,), 0.1, dtype=torch.float32),
        lambda: torch.tensor(0.1),
        lambda: torch.tensor([0.1], dtype=torch.float16),
        lambda: torch.arange(0, 1, 0.1),
        lambda: torch.ones_like(X, dtype=torch.float16),
        lambda: X.new_zeros(3),
        lambda: torch.cat([X, X]),
        lambda: torch.where(X > 0.1, X, 0.5),
        lambda: torch.arange(3) / 7,
        lambda: functional.scaled_dot_product_attention(*[X.view(1, 1, 3, 1)] * 3),
        lambda: X.max(dim=0).values,
        lambda: X[None].T,
    ],
)
def test_every_float_is_float64(compute: Any) -> None:
    with float64_arithmetic():
        result = compute()
        assert result.dtype == torch.float64
    assert result.dtype == torch.float64


def test_a_literal_is_not_rounded_to_float32() -> None:
    with float64_arithmetic():
        assert torch.tensor(0.1).item() == 0.1
        assert torch.full((1,), 0.1, dtype=torch.float32).item() == 0.1
        assert (torch.arange(3, dtype=torch.float32) / 7)[1].item() == 1 / 7


def test_integers_and_booleans_stay() -> None:
    with float64_arithmetic():
        assert torch.arange(3).dtype == torch.int64
        assert (X > 0.1).dtype == torch.bool
        assert X.long().dtype == torch.int64
        assert int(X[2] * 10) == 6


def test_a_weight_is_upcast_for_one_call_alone() -> None:
    layer = nn.Linear(3, 2)
    with float64_arithmetic(), torch.inference_mode():
        assert layer(X).dtype == torch.float64
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.add_(1),
        lambda x: x.__setitem__(0, 1.0),
        lambda x: x.__iadd__(1),
        lambda x: x.copy_(x / 3),
        lambda x: x.copy_(0.5),
    ],
)
def test_refuses_to_lose_what_is_written_into_a_narrow_tensor(write: Any) -> None:
    x = X.clone()
    with pytest.raises(UserError, match="writes into one of its own float32 tensors"), float64_arithmetic():
        write(x)
    assert torch.equal(x, X)
    assert torch.get_default_dtype() == torch.float32


def test_what_a_narrow_tensor_holds_unrounded_may_be_copied_into_it() -> None:
    x = torch.zeros_like(X)
    with float64_arithmetic():
        x.copy_(X * 1)
    assert x.dtype == torch.float32
    assert torch.equal(x, X)


def test_writes_into_its_own_results() -> None:
    with float64_arithmetic():
        x = X * 1
        x[0] = 5
        x.add_(0.1)
        x += X
    assert x[0].item() == 5.1 + X.double()[0].item()
