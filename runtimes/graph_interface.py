"""What a graph says of itself, read from its protobuf, and what a manifest says otherwise.

ModelProto        7 graph
GraphProto        5 initializer · 11 input · 12 output
TensorProto       1 dims · 2 data_type
ValueInfoProto    1 name · 2 type
TypeProto         1 tensor_type
Tensor            1 elem_type · 2 shape
TensorShapeProto  1 dim
Dimension         1 dim_value
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from seqexport.runtimes.manifest import Axis, Manifest, TensorSpec
from seqexport.runtimes.protobuf import Field, NotWhole, fields, mapped, numbers

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
FLOATS = ("float32", "float16", "bfloat16")
Bytes = mmap.mmap | bytes


@dataclass(frozen=True)
class Value:
    """An input or output: its dtype, and its axes, None where a call chooses; no axes at all where nothing is said."""

    dtype: str
    axes: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Interface:
    """``inputs`` and ``outputs`` by name; ``weights``: how many elements the graph's weights of each dtype have."""

    inputs: dict[str, Value] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    weights: Counter[str] = field(default_factory=Counter)


def difference(model: Path, manifest: Manifest) -> str | None:
    """What a manifest says otherwise than its graph, as a phrase; None where they agree.

    Raises:
        OSError: the graph cannot be read.
    """
    try:
        graph = interface(model)
    except NotWhole:
        return "it is no ONNX graph, or cut short"
    for kind, specs, values in (
        ("inputs", manifest.inputs, graph.inputs),
        ("outputs", manifest.outputs, graph.outputs),
    ):
        if others := {spec.name for spec in specs} ^ values.keys():
            return f"its {kind} are not those listed ({min(others)})"
        for spec in specs:
            if told := _other(spec, values[spec.name]):
                return told
    return _other_states(manifest) or _other_vocabulary(manifest) or _other_weights(manifest, graph.weights)


def interface(model: Path) -> Interface:
    """What a graph says of itself.

    Raises:
        OSError: it cannot be read.
        NotWhole: it is no graph.
    """
    found = Interface()
    with mapped(model) as data:
        for graph in _of(data, 0, len(data), 7):
            for part in fields(data, graph.begin, graph.end):
                if part.is_bytes and part.number == 5:
                    dtype, shape = _tensor(data, part)
                    found.weights[dtype] += prod(shape)
                elif part.is_bytes and part.number in (11, 12):
                    name, value = _value(data, part)
                    (found.inputs if part.number == 11 else found.outputs)[name] = value
    return found


def _other(spec: TensorSpec, value: Value) -> str | None:
    if spec.dtype != value.dtype:
        return f"its {spec.name} is {value.dtype}, not {spec.dtype}"
    if value.axes is not None and not _same(spec.shape, value.axes):
        return f"its {spec.name} has the shape {_shown(value.axes)}, not {_shown(spec.shape)}"
    return None


def _same(shape: Sequence[Axis], axes: Sequence[int | None]) -> bool:
    return [axis if isinstance(axis, int) else None for axis in shape] == list(axes)


def _other_states(manifest: Manifest) -> str | None:
    """States are inputs and outputs of the graph; what is said of those twice is the same."""
    ins = {spec.name: spec for spec in manifest.inputs}
    outs = {spec.name: spec for spec in manifest.outputs}
    for state in manifest.states:
        for name, specs in ((state.past_name, ins), (state.present_name, outs)):
            if name not in specs:
                return f"it has no {name}, a state"
            if specs[name].dtype != state.dtype or not _same(state.shape, [_size(x) for x in specs[name].shape]):
                return f"its {name} is {specs[name].dtype} {_shown(specs[name].shape)}, and the state another"
    return None


def _other_vocabulary(manifest: Manifest) -> str | None:
    model = manifest.language_model
    logits = next((spec for spec in manifest.outputs if spec.role == "logits"), None)
    if model is None:
        return None
    if logits is None or logits.shape[-1:] != (model.vocab_size,):
        found = "none" if logits is None else _shown(logits.shape)
        return f"its logits are {found}, not of {model.vocab_size} tokens"
    return None


def _size(axis: Axis) -> int | None:
    return axis if isinstance(axis, int) else None


def _other_weights(manifest: Manifest, weights: Mapping[str, int]) -> str | None:
    most = max(FLOATS, key=lambda dtype: weights.get(dtype, 0))
    if weights.get(most, 0) and most != manifest.dtype and weights[most] > weights.get(manifest.dtype, 0):
        return f"most of its weights are {most}, not {manifest.dtype}"
    return None


def _shown(axes: Sequence[Axis | None]) -> str:
    return f"[{', '.join('?' if axis is None else str(axis) for axis in axes)}]"


def _of(data: Bytes, begin: int, end: int, number: int) -> Iterator[Field]:
    return (part for part in fields(data, begin, end) if part.number == number and part.is_bytes)


def _tensor(data: Bytes, tensor: Field) -> tuple[str, tuple[int, ...]]:
    dtype, shape = 0, list[int]()
    for part in fields(data, tensor.begin, tensor.end):
        if part.number == 1:
            shape.extend(numbers(data, part))
        elif part.number == 2:
            dtype = part.value
    return DTYPES.get(dtype, f"type {dtype}"), tuple(shape)


def _value(data: Bytes, value: Field) -> tuple[str, Value]:
    name, found = "", Value("no tensor", None)
    for part in fields(data, value.begin, value.end):
        if part.is_bytes and part.number == 1:
            name = data[part.begin : part.end].decode(errors="replace")
        elif part.is_bytes and part.number == 2:
            for tensor in _of(data, part.begin, part.end, 1):
                found = _typed(data, tensor)
    return name, found


def _typed(data: Bytes, tensor: Field) -> Value:
    dtype, axes = 0, None
    for part in fields(data, tensor.begin, tensor.end):
        if part.number == 1:
            dtype = part.value
        elif part.is_bytes and part.number == 2:
            axes = tuple(_axis(data, dim) for dim in _of(data, part.begin, part.end, 1))
    return Value(DTYPES.get(dtype, f"type {dtype}"), axes)


def _axis(data: Bytes, dim: Field) -> int | None:
    sizes = [part.value for part in fields(data, dim.begin, dim.end) if part.number == 1 and not part.is_bytes]
    return sizes[-1] if sizes else None
