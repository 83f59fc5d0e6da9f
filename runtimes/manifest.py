"""The graph's manifest: what a bundle holds, and every input, output and state of its graph. No framework in here."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

from seqexport.plugins.errors import UserError

FORMAT_VERSION = 2

MOST_TOKENS = 2**31 - 1
"""That a length of 32 bits counts."""

MOST_STATES_BYTES = 2**36
"""Of the states of one sequence, its caches of one token."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Axis = Tokens | Name
"""A size, or the name of one that a call chooses. In the graphs of language models: batch, seq and max_len."""

MOST_TENSORS = 1 << 14
Shape = Annotated[tuple[Axis, ...], msgspec.Meta(max_length=16)]
Element = Literal["float32", "float16", "bfloat16", "float64", "bool", "int8", "int16", "int32", "int64", "uint8",
               "uint16", "uint32", "uint64"]  # fmt: skip

DType = Literal["float32", "float16", "bfloat16"]
Family = Literal["mamba", "transformer", "hybrid"]
StateKind = Literal["key", "value", "conv_state", "recurrent_state", "state"]
Logits = Literal["last", "all"]
Role = Literal["tokens", "lengths", "input", "past", "logits", "output", "present"]
Target = Literal["portable", "ort", "tensorrt"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of ``seqexport.json``."""


class StateSpec(Record, frozen=True, omit_defaults=True):
    """One state: what a call reads as one input and leaves as one output of the same shape.

    Attributes:
        layer: the layer's index in the model; 0 where it belongs to none.
        kind: ``key``, ``value``, ``conv_state`` or ``recurrent_state``; ``state`` for any other.
        shape: its axes; ``max_len`` is the capacity of a key/value cache.
        dtype: of its elements.
        past, present: the graph's input and output, where they are not named after layer and kind.
    """

    layer: Tokens
    kind: StateKind
    shape: Shape
    dtype: DType
    past: Name | None = None
    present: Name | None = None

    @property
    def past_name(self) -> str:
        """The graph's input that holds it before a call."""
        return self.past or f"past_key_values.{self.layer}.{self.kind}"

    @property
    def present_name(self) -> str:
        """The graph's output that holds it after a call."""
        return self.present or f"present.{self.layer}.{self.kind}"

    @property
    def grows(self) -> bool:
        """Whether it is a cache with a row for each token, not a state of fixed size."""
        return "max_len" in self.shape

    def sizes(self, batch: int, capacity: int) -> tuple[int, ...]:
        """The shape for a batch and a capacity of the cache.

        Raises:
            UserError: it has another axis whose size a call chooses.
        """
        named = {"batch": batch, "max_len": capacity}
        unknown = [axis for axis in self.shape if isinstance(axis, str) and axis not in named]
        if unknown:
            raise UserError(f"state {self.past_name}: nothing says how large its axis {unknown[0]} is")
        return tuple(named[axis] if isinstance(axis, str) else axis for axis in self.shape)


class TensorSpec(Record, frozen=True):
    """One input or output of the graph. ``role`` says what it is for."""

    name: Name
    dtype: Element
    shape: Shape
    role: Role


Tensors = Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=MOST_TENSORS)]


class Source(Record, frozen=True, omit_defaults=True):
    """Where the weights came from, and what exported them.

    Attributes:
        clamped: weights of which some values were beyond the dtype, and were set to its limit as the export was asked.
        weights: sha256 of them as they were exported, the same for every target; empty where an older seqexport
            exported them.
    """

    model: str
    parameters: Count
    seqexport: str
    torch: str
    transformers: str
    date: str
    clamped: tuple[str, ...] = ()
    weights: str = ""


class LanguageModel(Record, frozen=True):
    """What makes the graph of a bundle a language model: tokens in, logits out.

    Attributes:
        vocab_size: token ids are below it.
        eos_token_ids: any of them ends a generated text.
        logits: of each sequence's last valid token, or of every token.
    """

    vocab_size: Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]
    eos_token_ids: Annotated[tuple[Tokens, ...], msgspec.Meta(max_length=1000)]
    logits: Logits


class Manifest(Record, frozen=True, omit_defaults=True):
    """``seqexport.json``.

    Attributes:
        architecture: transformers' ``model_type``, or the class of another module.
        dtype: of weights and activations.
        caches_in_place: a cache's past and present may be one memory.
        ops: how many nodes of each of our ops the graph has.
        files: sha256 of every other file of the bundle, by name.
        family: what its layers keep: states (mamba), caches (transformer), both (hybrid); None for other modules.
        language_model: None where the graph takes no tokens.
        capacity: the most tokens that a row may ever hold; None where no state grows.
        capacity_limit: the largest capacity that the model could be exported with; None where it has no limit.
    """

    format_version: int
    architecture: str
    dtype: DType
    target: Target
    opset: int
    inputs: Tensors
    outputs: Tensors
    states: Annotated[tuple[StateSpec, ...], msgspec.Meta(max_length=MOST_TENSORS)]
    caches_in_place: bool
    ops: dict[str, Count]
    source: Source
    files: dict[str, str]
    family: Family | None = None
    language_model: LanguageModel | None = None
    capacity: Tokens | None = None
    capacity_limit: Tokens | None = None

    def __post_init__(self) -> None:
        if self.capacity is None and any(spec.grows for spec in self.states):
            raise ValueError("states that grow, and no capacity")
        if (size := self._least_bytes()) > MOST_STATES_BYTES:
            raise ValueError(f"states of {size:,} bytes for one sequence; at most {MOST_STATES_BYTES:,}")

    def _least_bytes(self) -> int:
        """Of the states, every axis that a call chooses taken as 1."""
        shapes = [(s.dtype, [axis for axis in s.shape if isinstance(axis, int)]) for s in self.states]
        return sum(math.prod(sizes) * ITEM_BYTES[dtype] for dtype, sizes in shapes)

    @property
    def text(self) -> LanguageModel:
        """What it says of tokens and logits.

        Raises:
            UserError: it is no language model's.
        """
        if self.language_model is None:
            raise UserError(f"the bundle of {self.architecture} has no vocabulary: it is not a language model's")
        return self.language_model

    @property
    def vocab_size(self) -> int:
        """Of a language model; others raise a UserError."""
        return self.text.vocab_size

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Of a language model; others raise a UserError."""
        return self.text.eos_token_ids

    @property
    def logits(self) -> Logits:
        """Of a language model; others raise a UserError."""
        return self.text.logits

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


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in a file of this format version or of one before it.

    Raises:
        ValueError: it is none.
    """
    if format_version(data) == FORMAT_VERSION:
        return msgspec.json.decode(data, type=Manifest)
    return msgspec.convert(_from_version_1(msgspec.json.decode(data, type=dict[str, Any])), type=Manifest)


def format_version(data: bytes) -> int:
    """The version that a manifest says it is of.

    Raises:
        ValueError: it says none.
    """
    return msgspec.json.decode(data, type=_Version).format_version


class _Version(msgspec.Struct):
    format_version: int


def _from_version_1(old: dict[str, Any]) -> dict[str, Any]:
    """Every graph was a language model's, and a state's kind was its ``leaf``."""
    model = {name: old.pop(name) for name in LanguageModel.__struct_fields__ if name in old}
    states = old.get("states")
    if isinstance(states, list):
        old["states"] = [
            {"kind" if name == "leaf" else name: value for name, value in each.items()}
            if isinstance(each, dict)
            else each
            for each in states
        ]
    return {**old, "format_version": FORMAT_VERSION, "language_model": model}


ITEM_BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}


def dtype_name(dtype: Any) -> Any:
    """``torch.float16`` or ``np.dtype('float16')`` to ``float16``."""
    return str(dtype).removeprefix("torch.")
