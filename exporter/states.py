"""Explicit states behind the interface of transformers' ``Cache``.

The mixers and attention layers of a model believe they talk to a cache; what they reach is the graph's state inputs,
and what they store becomes the graph's state outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import StateAxis, StateKind, StateSpec, dtype_name

Key = tuple[int, StateKind]


class GraphStates(Cache):
    """The states of one traced call.

    ``begin`` hands it the inputs of the call; hooks fetch ``past`` tensors and store ``present`` ones. While
    ``specs`` is still being discovered, a past that nobody gave is made up of zeros and its layout recorded.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.specs: dict[Key, StateSpec] = {}
        self._discovering = True
        self._past: dict[Key, Tensor] = {}
        self._present: dict[Key, Tensor] = {}
        self._kept: set[Key] = set()
        self._new_keys: int | None = None
        self.layer = -1
        self.seq_lens: Tensor
        self.past_lens: Tensor

    def begin(self, seq_lens: Tensor, past_lens: Tensor, past: dict[Key, Tensor] | None = None) -> None:
        """Start a call: int32[B] lengths, and every state that ``specs`` lists (None: discover them)."""
        self.seq_lens, self.past_lens = seq_lens, past_lens
        self._discovering = past is None
        self._past, self._present, self._kept, self._new_keys = past or {}, {}, set(), None

    def past(
        self, layer: int, kind: StateKind, shape: tuple[StateAxis, ...], like: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """A state's value before this call; ``shape`` has the axes ``batch`` and ``max_len`` by name."""
        if self._discovering:
            if (layer, kind) in self.specs:
                raise UserError(f"layer {layer} reads its {kind} twice in one call; this is not supported")
            self.specs[layer, kind] = StateSpec(layer=layer, kind=kind, shape=shape, dtype=dtype_name(dtype))
            sizes = {"batch": like.shape[0], "max_len": like.shape[1]}
            zeros = like.new_zeros([sizes[n] if isinstance(n, str) else n for n in shape], dtype=dtype)
            self._past[layer, kind] = zeros
        return self._past[layer, kind]

    def store(self, layer: int, kind: StateKind, value: Tensor) -> None:
        """A state's value after this call."""
        if (layer, kind) in self._present:
            raise UserError(f"layer {layer} updates its {kind} twice in one call; this is not supported")
        self._present[layer, kind] = value

    @property
    def present(self) -> list[Tensor]:
        """The states after the call, in the order of ``specs``."""
        missing = [spec.past_name for key, spec in self.specs.items() if key not in self._present]
        if missing:
            raise UserError(f"it reads the state {missing[0]} and never updates it; this is not supported")
        return [self._present[key] for key in self.specs]

    def take_new_keys(self) -> int | None:
        """The layer that has just given its keys and values to the cache; each gift is taken once."""
        layer, self._new_keys = self._new_keys, None
        return layer

    def check_discovered(self) -> None:
        """Refuse a model that keeps in its cache what none of our ops computes, or in another shape.

        Raises:
            UserError: naming the layer and what it keeps.
        """
        for layer, kind in sorted((self._kept | self._present.keys()) - self.specs.keys()):
            raise UserError(f"layer {layer} computes its {kind} in a way that none of our ops does")
        for (layer, kind), past in self._past.items():
            if self._present[layer, kind].shape != past.shape:
                raise UserError(f"layer {layer} gives its {kind} in another shape; this is not supported")
        if not self.specs:
            raise UserError("it keeps no states in its cache that the exporter knows")

    # transformers' Cache interface, as the models call it

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self._kept.add((layer_idx, "key"))
        self._new_keys = layer_idx
        return key_states, value_states

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> None:
        self.layer = layer_idx

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> None:
        self.layer = layer_idx

    def update_conv_state(self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any) -> Tensor:
        if state_idx:
            raise UserError(f"layer {layer_idx} keeps {state_idx + 1} convolution states; one is supported")
        self.layer = layer_idx
        self._kept.add((layer_idx, "conv_state"))
        return conv_states

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> Tensor:
        self.store(layer_idx, "recurrent_state", recurrent_states)
        return recurrent_states

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        return False

    def is_recording_past(self, layer_idx: int) -> bool:
        return False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    @property
    def is_compileable(self) -> bool:
        return False
