"""``mamba_selective_scan`` of the Mamba-1 families becomes SelectiveScan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqexport.exporter.patches.registry import replaces
from seqexport.exporter.states import GraphStates


@replaces("mamba_selective_scan")
def mamba_selective_scan(
    states: GraphStates,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **kwargs: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """hidden_states, dt, z [B,D,L] and B, C [B,N,L], as transformers lays them out."""
    channels, N = A.shape
    x = hidden_states.transpose(1, 2)
    past = states.past(states.layer, "recurrent_state", ("batch", channels, N), x, torch.float32)
    y, present = torch.ops.seqexport.selective_scan(
        x,
        dt.transpose(1, 2),
        A.float(),
        B.transpose(1, 2).unsqueeze(2),
        C.transpose(1, 2).unsqueeze(2),
        None if D is None else D.float(),
        None if z is None else z.transpose(1, 2),
        None if delta_bias is None else delta_bias.float(),
        past,
        states.seq_lens,
        int(delta_softplus),
    )
    y = y.transpose(1, 2)
    return (y, present) if return_last_state else y
