"""The stand-ins of mamba_ssm, causal_conv1d and VMamba's scans: their layouts, their numbers, how they come and go."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import seqexport
from seqexport.exporter.standins.packages import PACKAGES, mamba_ssm

SIZES = {"B": 2, "D": 6, "L": 7, "N": 5}
DTYPES = [torch.float32, torch.float64]


def load(name: str) -> ModuleType:
    with mamba_ssm():
        return importlib.import_module(name)


def recurrence(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Any, z: Any, bias: Any, softplus: bool
) -> Any:
    """Mamba-1's recurrence (Gu & Dao 2023) in float64, channel by channel; u [B,D,L], B and C [B,D,N,L]."""
    u, delta, A, B, C = (x.double() for x in (u, delta, A, B, C))
    delta = delta if bias is None else delta + bias.double()[:, None]
    delta = F.softplus(delta) if softplus else delta
    h, outputs = torch.zeros(*u.shape[:2], A.shape[1], dtype=torch.float64), []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        h = torch.exp(step * A) * h + step * B[..., t] * u[:, :, t, None]
        outputs.append((h * C[..., t]).sum(-1))
    y = torch.stack(outputs, -1)
    y = y if D is None else y + D.double()[:, None] * u
    return (y if z is None else y * F.silu(z.double())), h


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def scan_inputs(dtype: torch.dtype) -> dict[str, Tensor]:
    B, D, L, N = SIZES.values()
    return {
        "u": random(B, D, L, dtype=dtype),
        "delta": random(B, D, L, dtype=dtype, seed=1),
        "A": -torch.rand(D, N, generator=torch.Generator().manual_seed(0)).to(dtype) - 0.1,
        "D": random(D, dtype=dtype),
        "z": random(B, D, L, dtype=dtype, seed=2),
        "delta_bias": random(D, dtype=dtype, seed=3),
    }


def close(ours: Tensor, true: Tensor, dtype: torch.dtype) -> None:
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), true, rtol=0, atol={torch.float32: 5e-6, torch.float64: 1e-12}[dtype])


FORMS = {
    "constant": ((6, 5), lambda M: M[None, :, :, None].expand(2, 6, 5, 7)),
    "one group": ((2, 5, 7), lambda M: M[:, None].expand(2, 6, 5, 7)),
    "groups": ((2, 3, 5, 7), lambda M: M.repeat_interleave(2, 1)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("softplus", [False, True])
def test_selective_scan_fn(form: str, softplus: bool, dtype: torch.dtype) -> None:
    shape, expand = FORMS[form]
    given, B, C = scan_inputs(dtype), random(*shape, dtype=dtype, seed=5), random(*shape, dtype=dtype, seed=6)
    given["delta"] = given["delta"] if softplus else given["delta"].abs()
    given["delta_bias"] = given["delta_bias"].abs()
    fn = load("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    y, state = fn(**given, B=B, C=C, delta_softplus=softplus, return_last_state=True)
    u, delta, A, D, z, bias = given.values()
    true, last = recurrence(u, delta, A, expand(B), expand(C), D, z, bias, softplus)
    close(y, true, dtype)
    close(state, last, dtype)
    bare = fn(u, delta, A, B, C, delta_softplus=softplus)
    close(bare, recurrence(u, delta, A, expand(B), expand(C), None, None, None, softplus)[0], dtype)


def test_half_precision_is_kept_and_summed_in_float32() -> None:
    given = scan_inputs(torch.float16)
    given |= {name: given[name].float() for name in ("A", "D", "delta_bias")}
    B, C = random(2, 5, 7, dtype=torch.float16), random(2, 5, 7, dtype=torch.float16, seed=1)
    fn = load("mamba_ssm").selective_scan_fn
    y, state = fn(**given, B=B, C=C, delta_softplus=True, return_last_state=True)
    assert (y.dtype, state.dtype) == (torch.float16, torch.float32)
    u, delta, A, D, z, bias = given.values()
    wide = [M.double()[:, None].expand(2, 6, 5, 7) for M in (B, C)]
    true, _ = recurrence(u, delta, A, *wide, D, z, bias, True)
    torch.testing.assert_close(y.double(), true, rtol=2e-3, atol=2e-3)


def test_complex_rates_are_refused_by_name() -> None:
    fn = load("mamba_ssm").selective_scan_fn
    given = scan_inputs(torch.float32)
    given["A"] = torch.complex(given["A"], given["A"])
    with pytest.raises(seqexport.Error, match="selective_scan_fn: A is complex64; our scans have real A alone"):
        fn(**given, B=random(2, 5, 7), C=random(2, 5, 7))


def test_vmambas_builds() -> None:
    u, delta, A, D, z, bias = scan_inputs(torch.float32).values()
    B, C = random(2, 3, 5, 7), random(2, 3, 5, 7, seed=1)
    wide = [M.repeat_interleave(2, 1) for M in (B, C)]
    true, last = recurrence(u, delta, A, *wide, D, None, bias, True)
    for name, more in (("core", (1,)), ("nrow", (1,)), ("oflex", (1, True))):
        y, kept, *rest = load(f"selective_scan_cuda_{name}").fwd(u, delta, A, B, C, D, bias, True, *more)
        close(y, true, torch.float32)
        close(kept[:, :, -1, 1::2], last, torch.float32)
        assert rest == []
    half = load("selective_scan_cuda_oflex").fwd(u.half(), delta.half(), A, B.half(), C.half(), D, bias, True, 1, True)
    assert half[0].dtype == torch.float32
    y, kept, gated = load("selective_scan_cuda").fwd(u, delta, A, B, C, D, z, bias, True)
    close(y, true, torch.float32)
    close(gated, true * F.silu(z.double()), torch.float32)
    with pytest.raises(seqexport.Error, match="compute no gradients"):
        load("selective_scan_cuda").bwd()


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_causal_conv1d(dtype: torch.dtype, activation: str | None) -> None:
    package = load("causal_conv1d")
    x, weight, bias = random(2, 6, 9, dtype=dtype), random(6, 4, dtype=dtype), random(6, dtype=dtype)
    true = F.conv1d(x.double(), weight.double()[:, None], bias.double(), padding=3, groups=6)[..., :9]
    true = F.silu(true) if activation else true
    y, after = package.causal_conv1d_fn(x, weight, bias, None, None, True, None, activation)
    close(y, true, dtype)
    assert torch.equal(after, x[..., -3:])
    first, state = package.causal_conv1d_fn(
        x=x[..., :4], weight=weight, bias=bias, return_final_states=True, activation=activation
    )
    rest = package.causal_conv1d_fn(x[..., 4:], weight, bias, initial_states=state, activation=activation)
    close(torch.cat([first, rest], -1), true, dtype)
    held = F.pad(x[..., :4], (0, 0))
    step = package.causal_conv1d_update(x[..., 4], held, weight, bias, activation)
    close(step, true[..., 4], dtype)
    assert torch.equal(held, x[..., 1:5])


@pytest.mark.parametrize("per_channel", [False, True])
def test_mamba2s_scan(per_channel: bool) -> None:
    B, L, H, P, N, G = 2, 5, 4, 3, 6, 2
    x, dt, z = random(B, L, H, P), random(B, L, H), random(B, L, H, P, seed=1)
    A, bias = -torch.rand(H) - 0.1, random(H)
    Bm, Cm = random(B, L, G, N), random(B, L, G, N, seed=1)
    D = random(H, P) if per_channel else random(H)
    first = random(B, H, P, N)
    ssd = load("mamba_ssm.ops.triton.ssd_combined")
    y, state = ssd.mamba_chunk_scan_combined(
        x, dt, A, Bm, Cm, 256, D, z, bias, first, dt_softplus=True, dt_limit=(0.1, 1.5), return_final_states=True
    )
    step = F.softplus(dt.double() + bias.double()).clamp(0.1, 1.5)
    h, outputs = first.double(), []
    for t in range(L):
        decay = torch.exp(step[:, t] * A.double())[..., None, None]
        b, c = (M.double()[:, t].repeat_interleave(H // G, 1) for M in (Bm, Cm))
        h = decay * h + step[:, t, :, None, None] * x.double()[:, t, ..., None] * b[:, :, None]
        outputs.append((h * c[:, :, None]).sum(-1))
    skip = D.double() if per_channel else D.double()[:, None]
    true = (torch.stack(outputs, 1) + skip * x.double()) * F.silu(z.double())
    close(y, true, torch.float32)
    close(state, h, torch.float32)
    with pytest.raises(seqexport.Error, match="`seq_idx` is given, which our op does not have"):
        ssd.mamba_chunk_scan_combined(x, dt, A, Bm, Cm, 256, seq_idx=torch.zeros(B, L))


def test_steps_equal_the_whole_scan() -> None:
    B, D, L, N = SIZES.values()
    given = scan_inputs(torch.float32)
    Bm, Cm = random(B, N, L), random(B, N, L, seed=1)
    whole = load("mamba_ssm").selective_scan_fn(**given, B=Bm, C=Cm, delta_softplus=True)
    update = load("mamba_ssm.ops.triton.selective_state_update").selective_state_update
    state, outputs = torch.zeros(B, D, N), []
    for t in range(L):
        u, delta, z = (given[name][..., t] for name in ("u", "delta", "z"))
        outputs.append(
            update(state, u, delta, given["A"], Bm[..., t], Cm[..., t], given["D"], z, given["delta_bias"], True)
        )
    torch.testing.assert_close(torch.stack(outputs, -1), whole, rtol=0, atol=1e-6)
    heads = state.reshape(B, 3, 2, N).clone()
    A = -torch.rand(3, 1, 1).expand(3, 2, N)
    dt = random(B, 3, 1).expand(B, 3, 2)
    y = update(
        heads, random(B, 3, 2), dt, A, random(B, 1, N), random(B, 1, N, seed=1), random(3, 2), None, random(3, 2), True
    )
    assert y.shape == (B, 3, 2) and not torch.equal(heads, state.reshape(B, 3, 2, N))


def test_norms() -> None:
    norm, gated = load("mamba_ssm.ops.triton.layer_norm"), load("mamba_ssm.ops.triton.layernorm_gated")
    x, residual, weight, bias = random(2, 3, 8), random(2, 3, 8, seed=1), random(8), random(8, seed=1)
    total = (x + residual).double()
    y, kept = norm.layer_norm_fn(x, weight, bias, residual, prenorm=True, eps=1e-5)
    close(y, F.layer_norm(total, (8,), weight.double(), bias.double(), 1e-5), torch.float32)
    close(kept, total, torch.float32)
    rms = norm.RMSNorm(8)
    nn.init.normal_(rms.weight)
    close(rms(x, residual).detach(), F.rms_norm(total, (8,), rms.weight.double(), 1e-5).detach(), torch.float32)
    assert rms(x.half(), prenorm=True, residual_in_fp32=True)[1].dtype == torch.float32
    z = random(2, 3, 8, seed=2)
    for before in (True, False):
        layer = gated.RMSNorm(8, group_size=4, norm_before_gate=before)
        nn.init.normal_(layer.weight)
        gate, wide = F.silu(z.double()), x.double() if before else x.double() * F.silu(z.double())
        true = F.rms_norm(wide.unflatten(-1, (2, 4)), (4,), eps=1e-5).flatten(-2) * layer.weight.double()
        close(layer(x, z).detach(), (true * gate if before else true).detach(), torch.float32)
    with pytest.raises(seqexport.Error, match="dropout is for training"):
        norm.rms_norm_fn(x, weight, None, dropout_p=0.5)


@pytest.mark.parametrize("kind", ["Mamba", "Mamba2"])
def test_mixers_have_the_parameters_of_checkpoints(kind: str) -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = {"d_state": 4, "headdim": 4} if kind == "Mamba2" else {"d_state": 4}
    mixer = getattr(load("mamba_ssm"), kind)(8, **small)
    names = {"in_proj.weight", "conv1d.weight", "conv1d.bias", "A_log", "D", "out_proj.weight"}
    more = {"dt_bias", "norm.weight"} if kind == "Mamba2" else {"x_proj.weight", "dt_proj.weight", "dt_proj.bias"}
    assert mixer.state_dict().keys() == names | more
    x = random(2, 5, 8)
    whole = mixer(x)
    assert whole.shape == x.shape
    torch.testing.assert_close(mixer(x[:, :3]), whole[:, :3])  # causal
    with pytest.raises(seqexport.Error, match="keeps no cache"):
        mixer(x, inference_params=object())


def test_mamba_is_its_parts() -> None:
    """The mixer by the paper's figure 3, with PyTorch's own convolution and the recurrence above."""
    torch.manual_seed(0)
    mixer = load("mamba_ssm").Mamba(8, d_state=4, expand=1.5)
    x = random(2, 5, 8)
    with torch.no_grad():
        u, z = mixer.in_proj(x).transpose(1, 2).chunk(2, 1)
        u = F.silu(mixer.conv1d(u)[..., :5])
        low, B, C = mixer.x_proj(u.transpose(1, 2)).split([mixer.dt_rank, 4, 4], -1)
        delta = (low @ mixer.dt_proj.weight.T).transpose(1, 2)
        wide = [M.transpose(1, 2)[:, None].expand(2, 12, 4, 5) for M in (B, C)]
        y, _ = recurrence(u, delta, -mixer.A_log.exp(), *wide, mixer.D, z, mixer.dt_proj.bias, True)
        true = y.transpose(1, 2) @ mixer.out_proj.weight.T.double()
        close(mixer(x), true, torch.float32)


@pytest.mark.parametrize("groups", [None, 2])
def test_the_inner_functions_by_name(groups: int | None) -> None:
    """Both directions of Vim's first build, and each alone, by PyTorch's own convolution and the recurrence above."""
    D, N, R, L = 6, 4, 2, 5
    interface = load("mamba_ssm.ops.selective_scan_interface")
    xz, conv, bias = random(2, 2 * D, L), random(D, 1, 3), random(D)
    mix, step, out, shift = random(R + 2 * N, D), random(D, R), random(3, D), random(3)
    there, back = (-torch.rand(D, N, generator=torch.Generator().manual_seed(seed)) - 0.1 for seed in (0, 1))
    skip, step_bias = random(D, seed=2), random(D, seed=3)
    shared = {} if groups is None else {"B": random(2, groups, N, L, seed=4), "C": random(2, groups, N, L, seed=5)}
    given = (xz, conv, bias, mix, step)
    u, z = xz.double().chunk(2, 1)
    u = F.silu(F.conv1d(u, conv.double(), bias.double(), padding=2, groups=D)[..., :L])
    low, B, C = (mix.double() @ u).split([R, N, N], 1)
    delta = step.double() @ low
    if groups is None:
        wide = [M[:, None].expand(2, D, N, L) for M in (B, C)]
    else:
        wide = [M.double().repeat_interleave(D // groups, 1) for M in shared.values()]

    def scanned(A: Tensor, flip: bool) -> Tensor:
        turn = (lambda value: value.flip(-1)) if flip else (lambda value: value)
        parts = [turn(value) for value in (u, delta, *wide, z)]
        return turn(recurrence(parts[0], parts[1], A, parts[2], parts[3], skip, parts[4], step_bias, True)[0])

    one = scanned(there, False)
    project = (out.double(), shift.double())
    options = {"D": skip, "delta_bias": step_bias, "delta_softplus": True, **shared}
    close(interface.mamba_inner_fn_no_out_proj(*given, there, **options), one, torch.float32)
    ours = interface.mamba_inner_fn(*given, out, shift, there, **options)
    close(ours, F.linear(one.transpose(1, 2), *project), torch.float32)
    both = F.linear((one + scanned(back, True)).transpose(1, 2), *project)
    torch.testing.assert_close(
        interface.bimamba_inner_fn(*given, out, shift, there, back, **options).double(), both, rtol=0, atol=2e-5
    )
    with pytest.raises(seqexport.Error, match="mamba_inner_fn: A is complex64; our scans have real A alone"):
        interface.mamba_inner_fn(*given, out, shift, torch.complex(there, there), **options)


def test_they_come_and_go() -> None:
    assert not {name for name in PACKAGES if name in sys.modules}
    with seqexport.mamba_ssm():
        import mamba_ssm as package
        from causal_conv1d import causal_conv1d_fn
        from mamba_ssm.ops.triton.layernorm import RMSNorm

        assert package.Mamba and causal_conv1d_fn and RMSNorm
        with seqexport.mamba_ssm():
            assert sys.modules["mamba_ssm"] is package
        assert sys.modules["mamba_ssm"] is package
        with pytest.raises(ImportError, match=r"stand-in for mamba_ssm has no Mamba3; it has Mamba, Mamba2"):
            from mamba_ssm import Mamba3  # noqa: F401
        with pytest.raises(ModuleNotFoundError):
            import mamba_ssm.nothing  # noqa: F401
    assert not {name for name in PACKAGES if name in sys.modules}
    with pytest.raises(ImportError):
        import mamba_ssm as _  # noqa: F401


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package that is installed, and a module of the user's that has its function."""
    package, home = ModuleType("causal_conv1d"), ModuleType("users_own")

    def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Any = None, **options: Any) -> Tensor:
        raise RuntimeError("needs a GPU")

    causal_conv1d_fn.__module__ = "causal_conv1d"
    package.causal_conv1d_fn = home.convolve = causal_conv1d_fn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "causal_conv1d", package)
    monkeypatch.setitem(sys.modules, "users_own", home)
    return home


def test_an_installed_package_is_replaced_where_it_is_held_and_comes_back(installed: ModuleType) -> None:
    theirs = installed.convolve
    with mamba_ssm():
        assert installed.convolve is not theirs is not sys.modules["causal_conv1d"].causal_conv1d_fn
        y = installed.convolve(random(1, 2, 3), random(2, 2))
        assert y.shape == (1, 2, 3)
    assert installed.convolve is theirs is sys.modules["causal_conv1d"].causal_conv1d_fn
    with pytest.raises(ZeroDivisionError), mamba_ssm():
        _ = 1 / 0
    assert installed.convolve is theirs
