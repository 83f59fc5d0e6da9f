"""The mixers ``Mamba`` and ``Mamba2`` and their ``Block``, with the parameters' names and shapes of mamba_ssm's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seqexport.exporter.standins.norms import RMSNorm, RMSNormGated, layer_norm_fn
from seqexport.exporter.standins.scan import mamba_inner_fn
from seqexport.exporter.standins.ssd import NO_LIMIT, mamba_split_conv1d_scan_combined
from seqexport.plugins.errors import UserError


def _step_bias(channels: int, low: float, high: float, floor: float, **made: Any) -> Tensor:
    """Biases whose softplus lies between ``low`` and ``high``, even in its logarithm."""
    dt = torch.exp(torch.empty(channels, **made).uniform_(math.log(low), math.log(high))).clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))


def _refuse_cache(kind: str, inference_params: Any) -> None:
    if inference_params is not None:
        raise UserError(f"{kind}: the stand-in keeps no cache (`inference_params`); call it on whole sequences")


class Mamba(nn.Module):
    """Mamba-1's mixer (Gu & Dao 2023, figure 3): [B,L,d_model] to the same."""

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        made = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.d_conv, self.expand, self.layer_idx = (
            d_model, d_state, d_conv, expand, layer_idx,
        )  # fmt: skip
        self.d_inner = D = int(expand * d_model)
        self.dt_rank = R = math.ceil(d_model / 16) if isinstance(dt_rank, str) else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * D, bias=bias, **made)
        self.conv1d = nn.Conv1d(D, D, d_conv, padding=d_conv - 1, groups=D, bias=conv_bias, **made)
        self.x_proj = nn.Linear(D, R + 2 * d_state, bias=False, **made)
        self.dt_proj = nn.Linear(R, D, **made)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1, device=device).log().repeat(D, 1))
        self.D = nn.Parameter(torch.ones(D, device=device))
        self.out_proj = nn.Linear(D, d_model, bias=bias, **made)
        spread = dt_scale * R**-0.5
        with torch.no_grad():
            self.dt_proj.weight.uniform_(spread if dt_init == "constant" else -spread, spread)
            self.dt_proj.bias.copy_(_step_bias(D, dt_min, dt_max, dt_init_floor, **made))

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        _refuse_cache("Mamba", inference_params)
        return mamba_inner_fn(
            self.in_proj(hidden_states).transpose(1, 2),
            self.conv1d.weight,
            self.conv1d.bias,
            self.x_proj.weight,
            self.dt_proj.weight,
            self.out_proj.weight,
            self.out_proj.bias,
            -torch.exp(self.A_log.float()),
            D=self.D.float(),
            delta_bias=self.dt_proj.bias.float(),
            delta_softplus=True,
        )


class Mamba2(nn.Module):
    """Mamba-2's mixer (Dao & Gu 2024, section 7): [B,L,d_model] to the same."""

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: float = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = NO_LIMIT,
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        process_group: Any = None,
        sequence_parallel: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if process_group is not None:
            raise UserError("Mamba2: the stand-in runs in one process; make it without `process_group`")
        made = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.headdim, self.ngroups = d_model, d_state, headdim, ngroups
        self.dt_limit, self.chunk_size, self.layer_idx, self.D_has_hdim = dt_limit, chunk_size, layer_idx, D_has_hdim
        self.d_inner = int(expand * d_model)
        self.d_ssm = self.d_inner if d_ssm is None else d_ssm
        self.nheads = H = self.d_ssm // headdim
        mixed = self.d_ssm + 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner + 2 * ngroups * d_state + H, bias=bias, **made)
        self.conv1d = nn.Conv1d(mixed, mixed, d_conv, padding=d_conv - 1, groups=mixed, bias=conv_bias, **made)
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        self.dt_bias = nn.Parameter(_step_bias(H, dt_min, dt_max, dt_init_floor, **made))
        self.A_log = nn.Parameter(torch.empty(H, device=device).uniform_(*A_init_range).log().to(dtype=dtype))
        self.D = nn.Parameter(torch.ones(self.d_ssm if D_has_hdim else H, device=device))
        group = self.d_ssm // ngroups
        self.norm = RMSNormGated(self.d_ssm, 1e-5, group, norm_before_gate, **made) if rmsnorm else None
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **made)

    def forward(
        self,
        u: Tensor,
        seqlen: int | None = None,
        seq_idx: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        inference_params: Any = None,
    ) -> Tensor:
        _refuse_cache("Mamba2", inference_params)
        if seqlen is not None or cu_seqlens is not None:
            raise UserError("Mamba2: the stand-in takes [batch, length, channels]; call it without seqlen, cu_seqlens")
        norm = self.norm
        y: Tensor = mamba_split_conv1d_scan_combined(
            self.in_proj(u),
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            self.dt_bias,
            -torch.exp(self.A_log.float()),
            self.D.unflatten(0, (-1, self.headdim)) if self.D_has_hdim else self.D,
            self.chunk_size,
            seq_idx=seq_idx,
            dt_limit=self.dt_limit,
            rmsnorm_weight=None if norm is None else norm.weight,
            rmsnorm_eps=1e-6 if norm is None else norm.eps,
            outproj_weight=self.out_proj.weight,
            outproj_bias=self.out_proj.bias,
            headdim=None if self.D_has_hdim else self.headdim,
            ngroups=self.ngroups,
            norm_before_gate=norm is not None and norm.norm_before_gate,
        )
        return y


class Block(nn.Module):
    """Add, norm, mixer, and where there is one add, norm, MLP; gives the last part's answer and the residual sum."""

    def __init__(
        self,
        dim: int,
        mixer_cls: Callable[[int], nn.Module],
        mlp_cls: Any = nn.Identity,
        norm_cls: Callable[[int], nn.Module] = nn.LayerNorm,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
    ) -> None:
        super().__init__()
        self.fused_add_norm, self.residual_in_fp32 = fused_add_norm, residual_in_fp32
        self.norm, self.mixer = norm_cls(dim), mixer_cls(dim)
        has_mlp = mlp_cls is not nn.Identity
        self.norm2: nn.Module | None = norm_cls(dim) if has_mlp else None
        self.mlp: nn.Module | None = mlp_cls(dim) if has_mlp else None

    def forward(
        self, hidden_states: Tensor, residual: Tensor | None = None, inference_params: Any = None, **mixer_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        _refuse_cache("Block", inference_params)
        hidden_states, residual = self._added(self.norm, hidden_states, residual)
        hidden_states = self.mixer(hidden_states, **mixer_kwargs)
        if self.mlp is not None:
            hidden_states, residual = self._added(self.norm2, hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual

    def _added(self, norm: Any, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.fused_add_norm:
            normed: tuple[Tensor, Tensor] = layer_norm_fn(
                hidden, norm.weight, norm.bias, residual, eps=norm.eps, prenorm=True,
                residual_in_fp32=self.residual_in_fp32, is_rms_norm=isinstance(norm, RMSNorm),
            )  # fmt: skip
            return normed
        total = hidden if residual is None else hidden + residual
        kept = total.float() if self.residual_in_fp32 else total
        return norm(total.to(norm.weight.dtype)), kept
