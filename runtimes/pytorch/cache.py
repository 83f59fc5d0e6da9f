"""transformers' own cache, read and written in the manifest's layouts.

key, value       [B,Hkv,T,Dh]   as transformers keeps them
conv_state       [B,D,K-1]      transformers keeps K columns, the oldest of which nothing reads
recurrent_state  [B,D,N]        as transformers keeps it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer

from seqexport.runtimes.manifest import StateSpec


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """The cache that ``generate`` uses, its sliding windows keeping old keys that attention never sees."""
    cache = DynamicCache(config=model.config)
    layers: Any = cache.layers
    sliding: Any = DynamicSlidingWindowLayer
    for layer in layers:
        if type(layer) is sliding:
            layer.activate_past_recording()
    return cache


def read(cache: DynamicCache, spec: StateSpec) -> Tensor | None:
    """A state in the manifest's layout; None where no token was fed yet."""
    layer: Any = cache.layers[spec.layer] if spec.layer < len(cache.layers) else None
    if layer is None:
        return None
    if spec.grows:
        rows: Tensor | None = layer.keys if spec.kind == "key" else layer.values
        return rows
    kept: Tensor | None = (layer.conv_states if spec.kind == "conv_state" else layer.recurrent_states)[0]
    if kept is None or spec.kind == "recurrent_state":
        return kept
    columns = int(spec.shape[-1])
    return kept[..., kept.shape[-1] - columns :]


def write(cache: DynamicCache, specs: Sequence[StateSpec], states: Mapping[str, Tensor], length: int) -> None:
    """Fill an empty cache with states of sequences that all have ``length`` tokens, by their ``past_name``."""
    given = {(spec.layer, spec.kind): states[spec.past_name] for spec in specs}
    for (index, kind), state in given.items():
        if kind == "key":
            cache.update(state[:, :, :length], given[index, "value"][:, :, :length], index)
        elif kind == "conv_state":
            cache.update_conv_state(state, index, conv_kernel_size=state.shape[-1] + 1)
        elif kind == "recurrent_state":
            cache.update_recurrent_state(state, index)


def tensor_dtype(spec: StateSpec, wide: bool) -> torch.dtype:
    """What the session keeps a state in: the manifest's dtype, or float64."""
    dtype: torch.dtype = torch.float64 if wide else getattr(torch, spec.dtype)
    return dtype
