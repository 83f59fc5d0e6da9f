"""mamba_ssm's norms: with a residual sum (``layer_norm``), and with a gate (``layernorm_gated``)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqexport.exporter.standins.layouts import refuse_given, wide_dtype
from seqexport.plugins.errors import UserError


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
) -> Any:
    """The norm of x [..., D] plus residual, in the dtype of x; with ``prenorm`` the sum too."""
    refuse_given("layer_norm_fn", x1=x1, weight1=weight1, bias1=bias1, rowscale=rowscale)
    if dropout_p or return_dropout_mask:
        raise UserError("layer_norm_fn: dropout is for training; put the module in evaluation mode")
    wide = wide_dtype(x.dtype)
    total = x.to(wide) if residual is None else x.to(wide) + residual.to(wide)
    y = normed(total, weight, bias, eps, is_rms_norm=is_rms_norm).to(x.dtype)
    kept = residual.dtype if residual is not None else wide if residual_in_fp32 else x.dtype
    return (y, total.to(kept)) if prenorm else y


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    return_dropout_mask: bool = False,
) -> Any:
    """``layer_norm_fn`` by the root mean square."""
    return layer_norm_fn(
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, residual_in_fp32, True,
        return_dropout_mask,
    )  # fmt: skip


def normed(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, is_rms_norm: bool) -> Tensor:
    """x in a wide dtype."""
    centred = x if is_rms_norm else x - x.mean(-1, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * weight.to(x.dtype)
    return y if bias is None else y + bias.to(x.dtype)


def gated_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None,
    eps: float,
    group_size: int | None,
    norm_before_gate: bool,
    *,
    is_rms_norm: bool,
) -> Tensor:
    """The norm of x [..., D] in groups of channels, times silu(z) before or after it."""
    y = x.to(wide_dtype(x.dtype))
    gate = None if z is None else F.silu(z.to(y.dtype))
    if gate is not None and not norm_before_gate:
        y = y * gate
    size = group_size or x.shape[-1]
    grouped, scale = y.unflatten(-1, (-1, size)), weight.unflatten(-1, (-1, size))
    shift = None if bias is None else bias.unflatten(-1, (-1, size))
    y = normed(grouped, scale, shift, eps, is_rms_norm=is_rms_norm).flatten(-2)
    return (y if gate is None or not norm_before_gate else y * gate).to(x.dtype)


def layernorm_gated_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> Tensor:
    """``layernorm_gated.layernorm_fn``"""
    return gated_norm(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm=is_rms_norm)


def rmsnorm_gated_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """``layernorm_gated.rmsnorm_fn``"""
    return gated_norm(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm=True)


class RMSNorm(nn.Module):
    """``mamba_ssm.ops.triton.layer_norm.RMSNorm``"""

    def __init__(
        self, hidden_size: int, eps: float = 1e-5, dropout_p: float = 0.0, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.eps, self.dropout_p = eps, dropout_p
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Any:
        dropout = self.dropout_p if self.training else 0.0
        return rms_norm_fn(
            x, self.weight, None, residual, eps=self.eps, dropout_p=dropout, prenorm=prenorm,
            residual_in_fp32=residual_in_fp32,
        )  # fmt: skip


class _Gated(nn.Module):
    is_rms_norm: bool
    bias: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        zeros = None if self.is_rms_norm else nn.Parameter(torch.zeros(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", zeros)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return gated_norm(
            x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate,
            is_rms_norm=self.is_rms_norm,
        )  # fmt: skip


class RMSNormGated(_Gated):
    """``mamba_ssm.ops.triton.layernorm_gated.RMSNorm``"""

    is_rms_norm = True


class LayerNormGated(_Gated):
    """``mamba_ssm.ops.triton.layernorm_gated.LayerNorm``"""

    is_rms_norm = False
