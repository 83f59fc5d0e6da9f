"""The graph's manifest: what a bundle holds, and every input, output and state of its graph. No framework in here."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

FORMAT_VERSION = 1

Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
Axis = Count | Literal["batch", "seq", "max_len"]
"""A size, or the name of one that a call chooses."""

StateAxis = Count | Literal["batch", "max_len"]

DType = Literal["float32", "float16", "bfloat16"]
Family = Literal["mamba", "transformer", "hybrid"]
StateKind = Literal["key", "value", "conv_state", "recurrent_state"]
Logits = Literal["last", "all"]
Role = Literal["tokens", "lengths", "past", "logits", "present"]
Target = Literal["portable", "ort", "tensorrt"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of ``seqexport.json``."""


class StateSpec(Record, frozen=True):
    """One state of one layer.

    Attributes:
        layer: the layer's index in the model.
        kind: ``key``, ``value``, ``conv_state`` or ``recurrent_state``.
        shape: its axes; ``max_len`` is the capacity of a key/value cache.
        dtype: of its elements.
    """

    layer: Count
    kind: StateKind = msgspec.field(name="leaf")
    shape: tuple[StateAxis, ...]
    dtype: DType

    @property
    def past_name(self) -> str:
        return f"past_key_values.{self.layer}.{self.kind}"

    @property
    def present_name(self) -> str:
        return f"present.{self.layer}.{self.kind}"

    @property
    def grows(self) -> bool:
        """Whether it is a cache with a row for each token, not a state of fixed size."""
        return "max_len" in self.shape

    def sizes(self, batch: int, capacity: int) -> tuple[int, ...]:
        """The shape for a batch and a capacity of the cache."""
        named = {"batch": batch, "max_len": capacity}
        return tuple(named[axis] if isinstance(axis, str) else axis for axis in self.shape)


class TensorSpec(Record, frozen=True):
    """One input or output of the graph. ``role`` says what it is for."""

    name: str
    dtype: str
    shape: tuple[Axis, ...]
    role: Role


class Source(Record, frozen=True, omit_defaults=True):
    """Where the weights came from, and what exported them.

    Attributes:
        clamped: weights of which some values were beyond the dtype, and were set to its limit as the export was asked.
    """

    model: str
    parameters: Count
    seqexport: str
    torch: str
    transformers: str
    date: str
    clamped: tuple[str, ...] = ()


class Manifest(Record, frozen=True, omit_defaults=True):
    """``seqexport.json``.

    Attributes:
        architecture: transformers' ``model_type``.
        family: what its layers keep: states (mamba), caches (transformer), both (hybrid).
        dtype: of weights and activations.
        vocab_size: token ids are below it.
        eos_token_ids: any of them ends a generated text.
        logits: of each sequence's last valid token, or of every token.
        capacity: the most tokens that a row may ever hold; None where no state grows.
        caches_in_place: a cache's past and present may be one memory.
        ops: how many nodes of each of our ops the graph has.
        files: sha256 of every other file of the bundle, by name.
        capacity_limit: the largest capacity that the model could be exported with; None where it has no limit.
    """

    format_version: int
    architecture: str
    family: Family
    dtype: DType
    vocab_size: Count
    eos_token_ids: tuple[Count, ...]
    logits: Logits
    target: Target
    opset: int
    capacity: Count | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]
    caches_in_place: bool
    ops: dict[str, Count]
    source: Source
    files: dict[str, str]
    capacity_limit: Count | None = None

    @property
    def or_hold_more(self) -> str:
        """How a row of more tokens than the capacity could be held, to end an advice to give less."""
        if self.capacity_limit is None:
            return ", or export with a larger `max_len`"
        if self.capacity is not None and self.capacity < self.capacity_limit:
            return f", or export with a larger `max_len` ({self.capacity_limit} at most)"
        return ": the model itself goes no further"

    def input_named(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.inputs if spec.name == name), None)

    def state_bytes(self, batch: int, capacity: int) -> int:
        """Bytes of all states for a batch, its caches sized for ``capacity`` tokens."""
        return sum(math.prod(s.sizes(batch, capacity)) * ITEM_BYTES[s.dtype] for s in self.states)


ITEM_BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}


def dtype_name(dtype: Any) -> Any:
    """``torch.float16`` or ``np.dtype('float16')`` to ``float16``."""
    return str(dtype).removeprefix("torch.")
