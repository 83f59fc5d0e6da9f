"""The inputs and outputs of a traced module: their names, their dynamic axes, and which of them are states."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn

from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import Axis, StateSpec

Inputs = Mapping[str, Tensor]
"""Example tensors by the keyword of ``forward`` that takes each."""

DynamicAxes = Mapping[str, Mapping[int, str]]
"""For an input, the name of an axis by its index."""


def named_axes(module: nn.Module, inputs: Inputs, dynamic_axes: DynamicAxes) -> dict[str, dict[int, str]]:
    """The dynamic axes, none of them counted from the end.

    Raises:
        UserError: naming the input and the axis that do not fit.
    """
    try:
        inspect.signature(module.forward).bind(**inputs)
    except TypeError as error:
        raise UserError(f"inputs {', '.join(inputs)}: {type(module).__name__}.forward: {error}") from error
    for name, tensor in inputs.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"input {name}: expected a tensor, got {type(tensor).__name__}; bind it to the module")
    axes: dict[str, dict[int, str]] = {}
    sizes: dict[str, int] = {}
    for name, named in dynamic_axes.items():
        if name not in inputs:
            raise UserError(f"dynamic axes of {name}: the inputs are {', '.join(inputs)}")
        shape = inputs[name].shape
        for index, axis in named.items():
            if not -len(shape) <= index < len(shape):
                raise UserError(f"axis {index} ({axis}) of {name}: its example has {len(shape)} axes")
            size = shape[index]
            if size < 2:
                raise UserError(f"axis {index} ({axis}) of {name}: {size} in the example; give at least 2")
            if sizes.setdefault(axis, size) != size:
                raise UserError(f"axis {index} ({axis}) of {name}: {size}, and {sizes[axis]} elsewhere; give one size")
            axes.setdefault(name, {})[index % len(shape)] = axis
    return axes


def explicit_state(graph: ir.Graph, past: str, present: str) -> StateSpec:
    """The state that comes in as ``past`` and goes out as ``present``.

    Raises:
        UserError: there are no such, or they have not one dtype and shape.
    """
    before = next((value for value in graph.inputs if value.name == past), None)
    after = next((value for value in graph.outputs if value.name == present), None)
    if before is None:
        raise UserError(f"state {past}: no such input, or nothing reads it; read are {_names(graph.inputs)}")
    if after is None:
        raise UserError(f"state {past}: no output {present} after the call; there are {_names(graph.outputs)}")
    (shape, dtype), after_it = _type(before), _type(after)
    if (shape, dtype) != after_it:
        raise UserError(
            f"state {past} is {dtype} {list(shape)} before a call, and {present} is {after_it[1]} {list(after_it[0])} "
            "after it; expected one dtype and shape"
        )
    return StateSpec(layer=0, kind="state", shape=shape, dtype=dtype, past=past, present=present)


def _type(value: ir.Value) -> tuple[tuple[Axis, ...], Any]:
    assert value.dtype is not None
    return axes_of(value), str(value.dtype.numpy())


def axes_of(value: ir.Value) -> tuple[Axis, ...]:
    """The axes of an input or output: sizes, and names of those that a call chooses."""
    assert value.shape is not None
    return tuple(
        axis if isinstance(axis, int) else str(axis.value or f"{value.name}.{index}")
        for index, axis in enumerate(value.shape)
    )


def _names(values: Any) -> str:
    return ", ".join(value.name for value in values)
