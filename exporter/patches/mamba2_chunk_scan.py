"""``mamba2_chunk_scan`` of the Mamba-2 families becomes SsdScan."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from seqexport.exporter.patches.registry import missing, replaces
from seqexport.exporter.states import GraphStates

missing("mamba_chunk_scan_combined", op="SsdScan (Mamba-2), as mamba_ssm calls it")


@replaces("mamba2_chunk_scan")
def mamba2_chunk_scan(
    states: GraphStates,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    **kwargs: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """hidden_states [B,L,H,P], dt [B,L,H], A and D [H], B and C [B,L,G,N]; the state is [B,H,P,N], float32.

    The limit holds in every call, as in ``runtimes/pytorch/time_steps.py``.
    """
    H, P, N = *hidden_states.shape[2:], B.shape[-1]
    low, high = dt_limit
    past = states.past(states.layer, "recurrent_state", ("batch", H, P, N), hidden_states, torch.float32)
    y, present = torch.ops.seqexport.ssd_scan(
        hidden_states,
        dt,
        A.float(),
        B,
        C,
        None if D is None else D.float(),
        None,
        None if dt_bias is None else dt_bias.float(),
        past,
        states.seq_lens,
        int(dt_softplus),
        max(float(low), 0.0),
        float(high) if math.isfinite(high) else 0.0,
    )
    return (y, present) if return_final_states else y
