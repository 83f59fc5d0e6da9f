"""Mamba-2's scan as ``mamba_ssm.ops.triton.ssd_combined`` is called, and one step of either scan.

Symbols: B batch, L tokens, H heads, P channels of a head, N states, G groups, K width of the convolution.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqexport.exporter.standins.convolution import convolved
from seqexport.exporter.standins.layouts import common_dtype, refuse_complex, refuse_given, to, wide_dtype
from seqexport.exporter.standins.norms import gated_norm
from seqexport.exporter.standins.scan import scan_tokens

NO_LIMIT = (0.0, math.inf)


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = NO_LIMIT,
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    state_dtype: torch.dtype | None = None,
) -> Any:
    """x, z [B,L,H,P], dt [B,L,H], A [H], B and C [B,L,G,N], D [H] or [H,P]; gives y, and the state [B,H,P,N]."""
    refuse_given("mamba_chunk_scan_combined", seq_idx=seq_idx, cu_seqlens=cu_seqlens)
    refuse_complex("mamba_chunk_scan_combined", A)
    dtype = common_dtype(x, dt, B, C, z)
    wide = wide_dtype(dtype)
    shape = (x.shape[0], *x.shape[2:], B.shape[-1])
    past = x.new_zeros(shape, dtype=wide) if initial_states is None else initial_states.to(wide)
    of_heads = D is None or D.dim() == 1
    low, high = dt_limit
    y, state = torch.ops.seqexport.ssd_scan(
        x.to(dtype),
        dt.to(dtype),
        A.to(wide),
        B.to(dtype),
        C.to(dtype),
        to(D, wide) if of_heads else None,
        to(z, dtype) if of_heads else None,
        to(dt_bias, wide),
        past,
        None,
        int(dt_softplus),
        max(float(low), 0.0),
        float(high) if math.isfinite(high) else 0.0,
    )
    if D is not None and not of_heads:
        y = y.to(wide) + D.to(wide) * x.to(wide)
        y = y if z is None else y * F.silu(z.to(wide))
    state = state.to(state_dtype or wide)
    return (y.to(x.dtype), state) if return_final_states else y.to(x.dtype)


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = NO_LIMIT,
    return_final_states: bool = False,
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
    state_dtype: torch.dtype | None = None,
) -> Any:
    """Mamba-2's mixer after its input projection: zxbcdt [B,L,2*rest+2*H*P+2*G*N+H], conv1d_weight [H*P+2*G*N,K]."""
    refuse_given("mamba_split_conv1d_scan_combined", seq_idx=seq_idx)
    H = D.shape[0]
    P = D.shape[1] if D.dim() == 2 else headdim
    assert P is not None, "headdim is needed where D is [H]"
    dim, mixed = H * P, conv1d_weight.shape[0]
    N = (mixed - dim) // (2 * ngroups)
    rest = (zxbcdt.shape[-1] - dim - mixed - H) // 2
    gate0, x0, z, xBC, dt = zxbcdt.split([rest, rest, dim, mixed, H], dim=-1)
    xBC, _ = convolved(xBC, conv1d_weight, conv1d_bias, None, activation)
    x, B, C = xBC.split([dim, ngroups * N, ngroups * N], dim=-1)
    y, state = mamba_chunk_scan_combined(
        x.unflatten(-1, (H, P)),
        dt,
        A,
        B.unflatten(-1, (ngroups, N)),
        C.unflatten(-1, (ngroups, N)),
        chunk_size,
        D,
        z.unflatten(-1, (H, P)) if rmsnorm_weight is None else None,
        dt_bias,
        initial_states,
        dt_softplus=True,
        dt_limit=dt_limit,
        return_final_states=True,
        state_dtype=state_dtype,
    )
    y = y.flatten(2)
    if rmsnorm_weight is not None:
        y = gated_norm(
            y, rmsnorm_weight, None, z, rmsnorm_eps, dim // ngroups, norm_before_gate, is_rms_norm=True
        )  # fmt: skip
    if rest:
        y = torch.cat([F.silu(gate0) * x0, y], dim=-1)
    if outproj_weight is not None:
        y = F.linear(y, outproj_weight.to(y.dtype), to(outproj_bias, y.dtype))
    return (y, state) if return_final_states else y


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """One token: state [B,D,N] or [B,H,P,N], which is updated; x, dt, z [B,D] or [B,H,P]; B, C [B,N] or [B,G,N]."""
    refuse_given("selective_state_update", state_batch_indices=state_batch_indices)
    refuse_complex("selective_state_update", A)
    N = state.shape[-1]

    def token(value: Tensor | None) -> Any:
        return None if value is None else value.flatten(1).unsqueeze(1)

    def flat(value: Tensor | None) -> Any:
        return None if value is None else value.reshape(-1)

    grouped = [(M.unsqueeze(1) if M.dim() == 2 else M).unsqueeze(1) for M in (B, C)]
    past = state.reshape(state.shape[0], -1, N)
    y, after = scan_tokens(
        token(x), token(dt), A.reshape(-1, N), grouped[0], grouped[1], flat(D), token(z), flat(dt_bias), dt_softplus,
        past,
    )  # fmt: skip
    state.copy_(after.reshape(state.shape))
    return y.reshape(x.shape)
