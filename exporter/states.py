"""The states of a traced call: what its kernels read is an input of the graph, what they write is an output.

A kernel's patch (``exporter/patches``) asks ``GraphStates`` for the state before the call and gives it the state after:
``past`` and ``store``. A transformers model is handed the same object as its cache, because that is where its mixers
and attention layers say which layer they are in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import Axis, StateKind, StateSpec, dtype_name

Key = tuple[int, StateKind]


class GraphStates(Cache):
    """The states of one call.

    Args:
        specs: the states that there are; None: they are found in the first call, whose states before it are zeros.
        cached: the model is handed this as its cache. Where it is not, a kernel that does not say which layer it is in
            keeps nothing: it begins from zeros in every call, and attention is left as it is.

    Attributes:
        specs: by layer and kind, in the order of the graph's inputs.
        layer: the layer whose mixer runs now; -1 before any has said so.
        seq_lens: int32[B], valid tokens of each row in this call; None: all of them.
    """

    def __init__(self, specs: Iterable[StateSpec] | None = None, *, cached: bool = True) -> None:
        super().__init__(layers=[])
        self.cached = cached
        self._discovering = specs is None
        self.specs: dict[Key, StateSpec] = {(spec.layer, spec.kind): spec for spec in specs or ()}
        self._past: dict[Key, Tensor] = {}
        self._present: dict[Key, Tensor] = {}
        self._kept: set[Key] = set()
        self._new_keys: int | None = None
        self.layer = -1
        self.seq_lens: Tensor | None = None
        self._past_lens: Tensor | None = None

    def begin(self, past: Iterable[Tensor] = ()) -> None:
        """Start a call with the states before it, in the order of ``specs``."""
        self._past = {} if self._discovering else dict(zip(self.specs, past, strict=True))
        self._present, self._kept, self._new_keys = {}, set(), None

    def set_lengths(self, seq_lens: Tensor, past_lens: Tensor) -> None:
        """Say how many tokens of each row are valid in this call, and how many came before it: int32[B] each."""
        self.seq_lens, self._past_lens = seq_lens, past_lens

    @property
    def past_lens(self) -> Tensor:
        """int32[B], tokens of each row before this call.

        Raises:
            UserError: nobody has said.
        """
        if self._past_lens is None:
            raise UserError("it attends to a cache, and nothing says how many tokens the cache holds")
        return self._past_lens

    def past(self, layer: int, kind: StateKind, shape: tuple[Axis, ...], like: Tensor, dtype: torch.dtype) -> Tensor:
        """A state before this call.

        Args:
            layer, kind: which one.
            shape: its axes; ``batch`` and ``max_len`` (the capacity of a cache) by name.
            like: [B,L,...], of the same device and batch.
            dtype: of the state.

        Raises:
            UserError: it is read for the second time in a call.
        """
        if self._keeps_nothing(layer):
            return _zeros(shape, like, dtype)
        if self._discovering:
            if (layer, kind) in self.specs:
                raise UserError(f"layer {layer} reads its {kind} twice in one call; this is not supported")
            self.specs[layer, kind] = StateSpec(layer=layer, kind=kind, shape=shape, dtype=dtype_name(dtype))
            self._past[layer, kind] = _zeros(shape, like, dtype)
        return self._past[layer, kind]

    def store(self, layer: int, kind: StateKind, value: Tensor) -> None:
        """A state after this call.

        Raises:
            UserError: it is stored for the second time in a call.
        """
        if self._keeps_nothing(layer):
            return
        if (layer, kind) in self._present:
            raise UserError(f"layer {layer} updates its {kind} twice in one call; this is not supported")
        self._present[layer, kind] = value

    def _keeps_nothing(self, layer: int) -> bool:
        return layer < 0 and not self.cached

    @property
    def present(self) -> list[Tensor]:
        """The states after the call, in the order of ``specs``.

        Raises:
            UserError: one was read and not stored.
        """
        missing = [spec.past_name for key, spec in self.specs.items() if key not in self._present]
        if missing:
            raise UserError(f"it reads the state {missing[0]} and never updates it; this is not supported")
        return [self._present[key] for key in self.specs]

    def take_new_keys(self) -> int | None:
        """The layer whose keys and values were handed to the cache (``update``) since this was last asked, if any."""
        layer, self._new_keys = self._new_keys, None
        return layer

    def check_discovered(self) -> None:
        """Refuse a model that keeps in its cache what none of our ops computes, or gives it another shape in a call.

        Raises:
            UserError: naming the layer and what it keeps.
        """
        for layer, kind in sorted((self._kept | self._present.keys()) - self.specs.keys()):
            raise UserError(f"layer {layer} computes its {kind} in a way that none of our ops does")
        for (layer, kind), past in self._past.items():
            if self._present[layer, kind].shape != past.shape:
                raise UserError(f"layer {layer} gives its {kind} in another shape; this is not supported")

    # What transformers' models call of their cache. It says that it is empty: our ops see the past by themselves.

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


def _zeros(shape: tuple[Axis, ...], like: Tensor, dtype: torch.dtype) -> Tensor:
    sizes = {"batch": like.shape[0], "max_len": like.shape[1]}
    return like.new_zeros([sizes[n] if isinstance(n, str) else n for n in shape], dtype=dtype)
