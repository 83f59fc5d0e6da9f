"""What flash-linear-attention (``fla``) has that our ops serve: a decay for each head, its convolution, its norms.

The recurrence with one decay a head, S = exp(g) S + k v, o = scale q S (simple GLA, RetNet), is SsdScan's with steps of
size -g, whose values are divided by them. What needs the delta rule, or a decay for each channel, is refused by name.

Symbols: B batch, T tokens, H heads, K channels of a key, V of a value, D channels, W width of the convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqexport.exporter.standins.convolution import convolved
from seqexport.exporter.standins.layouts import FLOAT32, common_dtype, refuse_given, wide_dtype
from seqexport.exporter.standins.norms import layer_norm_fn, normed
from seqexport.exporter.standins.ssd import mamba_chunk_scan_combined
from seqexport.plugins.errors import UserError

SMALLEST_STEP = 2.0**-40
"""Below which a decay is 1 in float32, and a value divided by it and multiplied again is the value."""

GATES: dict[str, Callable[[Tensor], Tensor]] = {"swish": F.silu, "silu": F.silu, "sigmoid": torch.sigmoid}
UNSERVED = {
    "chunk_delta_rule": "the delta rule",
    "fused_chunk_delta_rule": "the delta rule",
    "fused_recurrent_delta_rule": "the delta rule",
    "chunk_gated_delta_rule": "the delta rule",
    "fused_recurrent_gated_delta_rule": "the delta rule",
    "chunk_kda": "the delta rule",
    "fused_recurrent_kda": "the delta rule",
    "chunk_gla": "a decay for each channel of a key",
    "fused_chunk_gla": "a decay for each channel of a key",
    "fused_recurrent_gla": "a decay for each channel of a key",
}
"""Functions of ``fla.ops``, and what they need."""


def simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """q, k [B,T,H,K], v [B,T,H,V], log decays g [B,T,H] or g_gamma [H]; gives o [B,T,H,V], and the state [B,H,K,V]."""
    refuse_given("simple_gla", cu_seqlens=cu_seqlens, reverse=reverse or None, **options)
    if g is not None and g_gamma is not None:
        raise UserError("simple_gla: g and g_gamma are given; expected one of them")
    wide = wide_dtype(common_dtype(q, k, v))
    heads, x, ones = v.shape[2], v.to(wide), torch.ones_like(v[..., 0], dtype=wide)
    if g is None:
        step, A = ones, (v.new_zeros(heads) if g_gamma is None else g_gamma).to(wide)
    else:
        step, A = (-g.to(wide)).clamp(min=SMALLEST_STEP), -torch.ones_like(ones[0, 0])
        x = x / step.unsqueeze(-1)
    past = initial_state if initial_state is None or state_v_first else initial_state.transpose(-1, -2)
    o, state = mamba_chunk_scan_combined(
        x, step, A, k.to(wide), q.to(wide) * (k.shape[-1] ** -0.5 if scale is None else scale), 64,
        initial_states=past, return_final_states=True,
    )  # fmt: skip
    state = state if state_v_first else state.transpose(-1, -2)
    return o.to(v.dtype), state if output_final_state else None


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """``simple_gla``; chunks are the op's own."""
    refuse_given("chunk_simple_gla", cu_seqlens_cpu=cu_seqlens_cpu)
    return simple_gla(
        q, k, v, g, g_gamma, scale, initial_state, output_final_state, False, state_v_first, cu_seqlens, **options
    )


def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """RetNet's decays: head h keeps 1 - 2^(-5-h) of its state."""
    decays = torch.log1p(-torch.exp2(-5 - torch.arange(q.shape[2], dtype=wide_dtype(q.dtype), device=q.device)))
    return simple_gla(q, k, v, None, decays, scale, initial_state, output_final_state, cu_seqlens=cu_seqlens, **options)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool | None = False,
    activation: str | None = None,
    backend: str | None = "triton",
    cu_seqlens: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """x, residual [B,T,D], weight [D,W], initial_state [B,D,W]; gives y [B,T,D], and the last W inputs [B,D,W]."""
    refuse_given("causal_conv1d", cu_seqlens=cu_seqlens, seq_idx=options.get("seq_idx"))
    heard = x.new_zeros(x.shape[0], *weight.shape) if initial_state is None else initial_state
    y, _ = convolved(x, weight, bias, heard[..., 1:].to(x.dtype), activation)
    y = y if residual is None else y + residual
    after = torch.cat([heard.to(x.dtype), x.transpose(1, 2)], -1)[..., -weight.shape[1] :]
    return y, after if output_final_state else None


class ShortConvolution(nn.Conv1d):
    """``fla.modules.ShortConvolution``; a cache that is given is not changed, the next one is returned."""

    def __init__(
        self,
        hidden_size: int,
        kernel_size: int,
        bias: bool = False,
        activation: str | None = "silu",
        backend: str | None = "triton",
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            hidden_size, hidden_size, kernel_size, padding=kernel_size - 1, groups=hidden_size, bias=bias,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.hidden_size, self.activation = hidden_size, activation

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Tensor | None = None,
        output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        x = x if mask is None else x * mask.unsqueeze(-1).to(x.dtype)
        return causal_conv1d(
            x, self.weight.squeeze(1), self.bias, residual, cache, output_final_state or cache is not None,
            self.activation, cu_seqlens=cu_seqlens, **options,
        )  # fmt: skip


class _Norm(nn.Module):
    is_rms_norm: bool
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        made = {"device": device, "dtype": dtype}
        self.hidden_size, self.eps = hidden_size, eps
        self.register_parameter("weight", nn.Parameter(torch.ones(hidden_size, **made)) if elementwise_affine else None)
        has_bias = elementwise_affine and bias
        self.register_parameter("bias", nn.Parameter(torch.zeros(hidden_size, **made)) if has_bias else None)

    def _scale(self, x: Tensor) -> Tensor:
        return torch.ones(self.hidden_size, dtype=FLOAT32, device=x.device) if self.weight is None else self.weight

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Any:
        return layer_norm_fn(
            x, self._scale(x), self.bias, residual, eps=self.eps, prenorm=prenorm, residual_in_fp32=residual_in_fp32,
            is_rms_norm=self.is_rms_norm,
        )  # fmt: skip


class RMSNorm(_Norm):
    """``fla.modules.RMSNorm``"""

    is_rms_norm = True


class LayerNorm(_Norm):
    """``fla.modules.LayerNorm``"""

    is_rms_norm = False


class FusedRMSNormGated(_Norm):
    """``fla.modules.FusedRMSNormGated``: the norm of x, times the gate g by its activation."""

    is_rms_norm = True

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        activation: str = "swish",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, False, eps, device, dtype)
        if activation not in GATES:
            raise UserError(f"FusedRMSNormGated: activation {activation!r}; expected one of {', '.join(GATES)}")
        self.activation = activation

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        g: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Any:
        wide = wide_dtype(x.dtype)
        total = x.to(wide) if residual is None else x.to(wide) + residual.to(wide)
        y = normed(total, self._scale(x), None, self.eps, is_rms_norm=True) * GATES[self.activation](g.to(wide))
        kept = residual.dtype if residual is not None else wide if residual_in_fp32 else x.dtype
        return (y.to(x.dtype), total.to(kept)) if prenorm else y.to(x.dtype)


def unserved(name: str) -> Any:
    """A function of this name that says why it is not served."""

    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise UserError(
            f"{name}: it needs {UNSERVED[name]}, for which there is no op; leave this layer out of the export"
        )

    refuse.__module__ = __name__
    return refuse
