"""``causal_conv1d``: a depthwise causal convolution over time, channel-major."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqexport.exporter.standins.layouts import activation_of, common_dtype, refuse_given, to


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Any:
    """x [B,D,L], weight [D,K], initial_states [B,D,K-1]; gives y [B,D,L], and with it the last K-1 inputs [B,D,K-1]."""
    refuse_given("causal_conv1d_fn", seq_idx=seq_idx)
    y, after = convolved(x.transpose(1, 2), weight, bias, initial_states, activation)
    if final_states_out is not None:
        final_states_out.copy_(after)
    return (y.transpose(1, 2), after) if return_final_states else y.transpose(1, 2)


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor]:
    """x [B,L,D] to y [B,L,D] and the last K-1 inputs [B,D,K-1], both in the dtype of x."""
    dtype, (D, K) = common_dtype(x, weight, bias, past), weight.shape
    before = x.new_zeros(x.shape[0], D, K - 1, dtype=dtype) if past is None else past.to(dtype)
    y, after = torch.ops.seqexport.causal_conv1d(
        x.to(dtype), weight.to(dtype), to(bias, dtype), before, None, activation_of("causal_conv1d_fn", activation)
    )
    return y.to(x.dtype), after.to(x.dtype)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """x [B,D] or [B,D,L], conv_state [B,D,at least K-1], whose last columns are the inputs before; it is updated."""
    refuse_given("causal_conv1d_update", cache_seqlens=cache_seqlens, conv_state_indices=conv_state_indices)
    tokens = x.unsqueeze(1) if x.dim() == 2 else x.transpose(1, 2)
    K = weight.shape[1]
    past = conv_state[..., conv_state.shape[-1] - (K - 1) :]
    y, _ = convolved(tokens, weight, bias, past.to(x.dtype), activation)
    joined = torch.cat([conv_state, tokens.transpose(1, 2).to(conv_state.dtype)], -1)
    conv_state.copy_(joined[..., tokens.shape[1] :])
    return y.squeeze(1) if x.dim() == 2 else y.transpose(1, 2)
