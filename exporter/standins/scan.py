"""Mamba-1's scan as mamba_ssm and VMamba's builds of it are called: channel-major, stateless unless told otherwise.

Symbols: B batch, D channels, L tokens, N states, G groups, R rank of the time steps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqexport.exporter.standins.convolution import convolved
from seqexport.exporter.standins.layouts import common_dtype, refuse_complex, to, wide_dtype
from seqexport.plugins.errors import UserError


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    """u, delta, z [B,D,L]; A [D,N] real; B, C [D,N], [B,N,L] or [B,G,N,L]; gives y [B,D,L], and the state [B,D,N]."""
    y, state = _scanned("selective_scan_fn", u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return (y, state) if return_last_state else y


def _scanned(
    function: str,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    refuse_complex(function, A)
    x = u.transpose(1, 2)
    B, C = (_token_major(function, M, x) for M in (B, C))
    gate = None if z is None else z.transpose(1, 2)
    y, state = scan_tokens(x, delta.transpose(1, 2), A, B, C, D, gate, delta_bias, delta_softplus)
    return y.transpose(1, 2), state


def _token_major(function: str, M: Tensor, x: Tensor) -> Tensor:
    """B or C as [B,L,G,N]."""
    if M.is_complex() or M.dim() not in (2, 3, 4):
        raise UserError(f"{function}: B and C are [D,N], [B,N,L] or [B,G,N,L] and real; got {M.dtype} {list(M.shape)}")
    if M.dim() == 2:
        return M.expand(*x.shape[:2], *M.shape)
    tokens = M.transpose(1, 2).unsqueeze(2) if M.dim() == 3 else M.permute(0, 3, 1, 2)
    if x.shape[2] % tokens.shape[2]:
        raise UserError(f"{function}: {x.shape[2]} channels in {tokens.shape[2]} groups; expected a whole number each")
    return tokens


def scan_tokens(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    past: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x, dt, z [B,L,D], B and C [B,L,G,N] to y [B,L,D] in the dtype of x, and the state [B,D,N]."""
    dtype = common_dtype(x, dt, B, C, z)
    wide = wide_dtype(dtype)
    before = x.new_zeros(x.shape[0], *A.shape, dtype=wide) if past is None else past.to(wide)
    y, state = torch.ops.seqexport.selective_scan(
        x.to(dtype),
        dt.to(dtype),
        A.to(wide),
        B.to(dtype),
        C.to(dtype),
        to(D, wide),
        to(z, dtype),
        to(dt_bias, wide),
        before,
        None,
        int(dt_softplus),
    )
    return y.to(x.dtype), state


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """Mamba's mixer after its input projection: xz [B,2D,L], conv1d_weight [D,1,K], x_proj_weight [R+2N,D],
    delta_proj_weight [D,R], out_proj_weight [M,D]; gives [B,L,M]."""
    norms = (dt_rms_weight, b_rms_weight, c_rms_weight)
    y = _inner(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias, B_proj_bias,
        C_proj_bias, delta_softplus, norms, b_c_dt_rms_eps,
    )  # fmt: skip
    return F.linear(y, out_proj_weight.to(y.dtype), to(out_proj_bias, y.dtype))


def mamba_inner_fn_no_out_proj(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """The same without the output projection, as Vim's build of mamba_ssm has it; gives [B,D,L]."""
    y = _inner(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias, B_proj_bias,
        C_proj_bias, delta_softplus,
    )  # fmt: skip
    return y.transpose(1, 2)


def _inner(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    D: Tensor | None,
    delta_bias: Tensor | None,
    B_proj_bias: Tensor | None,
    C_proj_bias: Tensor | None,
    delta_softplus: bool,
    norms: tuple[Tensor | None, ...] = (None, None, None),
    eps: float = 1e-6,
) -> Tensor:
    """[B,L,D]"""
    refuse_complex("mamba_inner_fn", A)
    x, dt, B, C, z = _projected(
        "mamba_inner_fn", xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias,
        C_proj_bias, norms, eps,
    )  # fmt: skip
    y, _ = scan_tokens(x, dt, A, B, C, D, z, delta_bias, delta_softplus)
    return y


def _projected(
    function: str,
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    B_proj_bias: Tensor | None,
    C_proj_bias: Tensor | None,
    norms: tuple[Tensor | None, ...] = (None, None, None),
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What a scan reads, x and dt [B,L,D], B and C [B,L,G,N], and its gate z [B,L,D]."""
    x, z = xz.transpose(1, 2).chunk(2, dim=2)
    x, _ = convolved(x, conv1d_weight.squeeze(1), conv1d_bias, None, "silu")
    R, N = delta_proj_weight.shape[1], A.shape[1]
    mixed = F.linear(x, x_proj_weight.to(x.dtype))
    low, own_B, own_C = mixed[..., :R], mixed[..., R : R + N], mixed[..., mixed.shape[-1] - N :]
    low, own_B, own_C = (
        _rms(value, weight, eps)
        for value, weight in zip((low, _biased(own_B, B_proj_bias), _biased(own_C, C_proj_bias)), norms, strict=True)
    )
    B = own_B.unsqueeze(2) if B is None else _token_major(function, B, x)
    C = own_C.unsqueeze(2) if C is None else _token_major(function, C, x)
    return x, F.linear(low, delta_proj_weight.to(x.dtype)), B, C, z


def _biased(value: Tensor, bias: Tensor | None) -> Tensor:
    return value if bias is None else value + bias.to(value.dtype)


def _rms(value: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    if weight is None:
        return value
    wide = value.to(wide_dtype(value.dtype))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.to(wide.dtype)).to(value.dtype)


def bimamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    A_b: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """Both directions over what one convolution gives, as Vim's first build has it; A_b [D,N] is the way back's."""
    refuse_complex("bimamba_inner_fn", A_b)
    x, dt, B, C, z = _projected(
        "bimamba", xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias
    )
    there, _ = scan_tokens(x, dt, A, B, C, D, z, delta_bias, delta_softplus)
    turned = [value.flip(1) for value in (x, dt, B, C, z)]
    back, _ = scan_tokens(turned[0], turned[1], A_b, turned[2], turned[3], D, turned[4], delta_bias, delta_softplus)
    y = there + back.flip(1)
    return F.linear(y, out_proj_weight.to(y.dtype), to(out_proj_bias, y.dtype))


def selective_scan_cuda_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> list[Tensor]:
    """``selective_scan_cuda.fwd``: y without the gate, what the kernel keeps, and where there is a gate y with it."""
    y, state = _scanned("selective_scan_cuda.fwd", u, delta, A, B, C, D, None, delta_bias, delta_softplus)
    kept = _kept(state)
    return [y, kept] if z is None else [y, kept, (y * F.silu(z.to(wide_dtype(z.dtype)))).to(y.dtype)]


def selective_scan_cuda_core_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    nrows: int = 1,
) -> list[Tensor]:
    """``fwd`` of VMamba's builds ``core``, ``nrow`` and ``ndstate``."""
    y, state = _scanned("selective_scan_cuda_core.fwd", u, delta, A, B, C, D, None, delta_bias, delta_softplus)
    return [y, _kept(state)]


def selective_scan_cuda_oflex_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    nrows: int = 1,
    out_float: bool = True,
) -> list[Tensor]:
    """``fwd`` of VMamba's build ``oflex``: y in float32 where ``out_float`` is set."""
    wide = u.to(wide_dtype(u.dtype)) if out_float else u
    y, state = _scanned("selective_scan_cuda_oflex.fwd", wide, delta, A, B, C, D, None, delta_bias, delta_softplus)
    return [y, _kept(state)]


def _kept(state: Tensor) -> Tensor:
    """[B,D,1,2N]: the last state in every second place, where callers look for it."""
    return torch.stack([torch.zeros_like(state), state], -1).flatten(-2).unsqueeze(2)


def no_gradient(*args: Any, **kwargs: Any) -> Any:
    """Raises UserError: our stand-ins compute no gradients."""
    raise UserError("the stand-ins of selective_scan_cuda compute no gradients; train with the package itself")
