"""The stand-ins of flash-linear-attention: one decay a head, the convolution, the norms, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import seqexport
from tests.exporter.test_standins import close, load, random

B, T, H, K, V, D, W = 2, 6, 3, 4, 5, 8, 4


def recurrence(g: Tensor, first: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """S = exp(g) S + k v, o = scale q S in float64; g [B,T,H]."""
    q, k, v, state, outputs = *(each.double() for each in qkv()), first.double(), []
    for t in range(T):
        state = g[:, t, :, None, None].double().exp() * state + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append(scale * (q[:, t, :, None] @ state).squeeze(-2))
    return torch.stack(outputs, 1), state


def qkv() -> tuple[Tensor, Tensor, Tensor]:
    return random(B, T, H, K), random(B, T, H, K, seed=1), random(B, T, H, V)


@pytest.mark.parametrize("name", ["chunk_simple_gla", "fused_recurrent_simple_gla"])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_simple_gla(name: str, scale: float | None) -> None:
    function = getattr(load("fla.ops.simple_gla"), name)
    g, first = F.logsigmoid(random(B, T, H)), random(B, H, K, V)
    g[:, 1], g[:, 2] = 0, -1e-7  # that keep all
    true, last = recurrence(g, first, K**-0.5 if scale is None else scale)
    o, state = function(*qkv(), g, None, scale, first, True)
    close(o, true, torch.float32)
    close(state, last, torch.float32)
    o, state = function(*qkv(), g, scale=scale, initial_state=first.mT, output_final_state=True, state_v_first=True)
    close(state.mT, last, torch.float32)
    assert function(*qkv(), g)[1] is None


def test_decays_of_heads_alone() -> None:
    ops, first = load("fla.ops"), torch.zeros(B, H, K, V)
    gamma = -torch.rand(H, generator=torch.Generator().manual_seed(0))
    close(
        ops.chunk_simple_gla(*qkv(), g_gamma=gamma)[0], recurrence(gamma.expand(B, T, H), first, 0.5)[0], torch.float32
    )
    close(ops.chunk_simple_gla(*qkv())[0], recurrence(torch.zeros(B, T, H), first, 0.5)[0], torch.float32)
    kept = torch.log(1 - 2.0 ** (-5 - torch.arange(H, dtype=torch.float64)))
    close(ops.chunk_retention(*qkv())[0], recurrence(kept.expand(B, T, H), first, 0.5)[0], torch.float32)
    with pytest.raises(seqexport.Error, match="simple_gla: g and g_gamma are given; expected one of them"):
        ops.chunk_simple_gla(*qkv(), kept.expand(B, T, H), gamma)
    with pytest.raises(seqexport.Error, match="simple_gla: `cu_seqlens` is given, which our op does not have"):
        ops.chunk_retention(*qkv(), cu_seqlens=torch.tensor([0, T]))


@pytest.mark.parametrize("bias", [False, True])
def test_short_convolution(bias: bool) -> None:
    torch.manual_seed(0)
    conv = load("fla.modules").ShortConvolution(D, W, bias=bias)
    assert conv.state_dict().keys() == ({"weight", "bias"} if bias else {"weight"})
    x, residual = random(B, T, D), random(B, T, D, seed=1)
    shift = conv.bias.double() if bias else None
    true = F.silu(F.conv1d(x.mT.double(), conv.weight.double(), shift, padding=W - 1, groups=D)[..., :T]).mT
    with torch.no_grad():
        whole, none = conv(x)
        close(whole, true.detach(), torch.float32)
        close(conv(x, residual)[0], true.detach() + residual, torch.float32)
        first, cache = conv(x[:, :4], output_final_state=True)
        second, cache = conv(x[:, 4:5], cache=cache)
        third, cache = conv(x[:, 5:], cache=cache)
    torch.testing.assert_close(torch.cat([first, second, third], 1), whole)
    assert none is None and torch.equal(cache, x[:, -W:].mT)


def test_norms() -> None:
    modules = load("fla.modules")
    x, residual, g = random(B, T, D), random(B, T, D, seed=1), random(B, T, D, seed=2)
    total = (x + residual).double()
    for kind, plain in (("RMSNorm", F.rms_norm), ("LayerNorm", F.layer_norm)):
        y, kept = getattr(modules, kind)(D, elementwise_affine=False)(x, residual, prenorm=True)
        close(y, plain(total, (D,), eps=1e-5), torch.float32)
        close(kept, total, torch.float32)
    for activation, gate in (("swish", F.silu), ("sigmoid", torch.sigmoid)):
        norm = modules.FusedRMSNormGated(D, activation=activation)
        nn.init.normal_(norm.weight)
        true = F.rms_norm(x.double(), (D,), norm.weight.double(), 1e-5) * gate(g.double())
        close(norm(x, g).detach(), true.detach(), torch.float32)
    with pytest.raises(seqexport.Error, match="FusedRMSNormGated: activation 'relu'; expected one of swish, silu"):
        modules.FusedRMSNormGated(D, activation="relu")


def test_what_needs_other_ops_is_refused_by_name() -> None:
    for package, name, needs in (
        ("fla.ops", "chunk_gated_delta_rule", "the delta rule"),
        ("fla.ops.delta_rule", "chunk_delta_rule", "the delta rule"),
        ("fla.ops.gla", "chunk_gla", "a decay for each channel of a key"),
    ):
        with pytest.raises(seqexport.Error, match=f"^{name}: it needs {needs}, for which there is no op"):
            getattr(load(package), name)(*qkv())


class Layer(nn.Module):
    """A layer as fla's own are: convolutions, decays of heads, a gated norm."""

    def __init__(self, package: Any) -> None:
        super().__init__()
        self.function = load("fla.ops.simple_gla").chunk_simple_gla
        self.into, self.out = nn.Linear(D, 4 * D + 2), nn.Linear(D, D)
        self.conv, self.norm = package.ShortConvolution(3 * D, W), package.FusedRMSNormGated(D // 2)

    def forward(self, hidden: Tensor) -> Tensor:
        x, gate, decay = self.into(hidden).split([3 * D, D, 2], -1)
        q, k, v = (each.unflatten(-1, (2, -1)) for each in self.conv(x)[0].chunk(3, -1))
        o, _ = self.function(q, k, v, F.logsigmoid(decay))
        return self.out(self.norm(o, gate.unflatten(-1, (2, -1))).flatten(2))


def test_a_layer_is_exported_and_proved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = Layer(load("fla.modules"))
    bundle = seqexport.export(
        layer, tmp_path / "out", inputs={"hidden": torch.zeros(1, 9, D)}, dynamic={"hidden": ("batch", "time", D)}
    )
    assert bundle.manifest.ops == {"SsdScan": 1, "CausalConv1d": 1}
    checks = seqexport.verify(bundle)
    assert checks and all(check.passed for check in checks), checks
