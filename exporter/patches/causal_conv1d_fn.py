"""``causal_conv1d_fn`` of the Mamba-like families becomes CausalConv1d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqexport.exporter.patches.registry import replaces
from seqexport.exporter.states import GraphStates
from seqexport.plugins.errors import UserError

ACTIVATIONS = {None: "none", "silu": "silu", "swish": "silu"}


@replaces("causal_conv1d_fn")
def causal_conv1d_fn(
    states: GraphStates,
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    **kwargs: Any,
) -> Tensor:
    """hidden_states [B,D,L] and weight [D,K], as transformers lays them out; the history is in ``states``."""
    if activation not in ACTIVATIONS:
        raise UserError(f"convolution activation {activation!r}: CausalConv1d has none and silu")
    D, K = weight.shape
    x, layer = hidden_states.transpose(1, 2), states.layer
    past = states.past(layer, "conv_state", ("batch", D, K - 1), x, x.dtype)
    y, present = torch.ops.seqexport.causal_conv1d(x, weight, bias, past, states.seq_lens, ACTIVATIONS[activation])
    states.store(layer, "conv_state", present)
    return y.transpose(1, 2)
