"""A bundle of any module on a backend: named arrays in, named arrays out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.closing import Closing
from seqexport.runtimes.manifest import TensorSpec

Array = NDArray[Any]
Arrays = dict[str, Array]


class OtherSizes(UserError):
    """What runs the bundle was built for other sizes than a call's."""


class ModuleRunner(Closing):
    """A bundle that is no language model's, opened on one backend. It keeps nothing from call to call.

    Raises:
        UserError: the bundle is a language model's.
    """

    backend: ClassVar[str]

    def __init__(self, bundle: Bundle) -> None:
        if bundle.manifest.language_model is not None:
            raise UserError(f"{bundle.path} is a language model's: it takes tokens in sessions, not arrays")
        self.bundle, self.manifest = bundle, bundle.manifest

    @property
    @abstractmethod
    def description(self) -> str:
        """Backend, version, device and what computes our ops, for reports."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """What a call takes."""
        return tuple(spec.name for spec in self.manifest.inputs)

    def __call__(self, inputs: Mapping[str, Array]) -> Arrays:
        """Every output by its name; bfloat16 as float32.

        Args:
            inputs: every input by its name; floats in any width, bfloat16 as float32.

        Raises:
            UserError: the inputs are not those of the graph, or the backend fails on them.
        """
        self.check_open()
        return self._run(checked(self.manifest.inputs, inputs))

    def carried(self, outputs: Mapping[str, Array]) -> Arrays:
        """The states that a call left, as inputs of the next call."""
        return {spec.past_name: outputs[spec.present_name] for spec in self.manifest.states}

    @abstractmethod
    def _run(self, inputs: Arrays) -> Arrays:
        """Run checked inputs."""


def checked(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> Arrays:
    """The inputs in their dtypes, bfloat16 as float32.

    Raises:
        UserError: naming an input that is missing or unknown, or whose dtype or shape is another.
    """
    names = ", ".join(spec.name for spec in specs)
    if unknown := inputs.keys() - {spec.name for spec in specs}:
        raise UserError(f"input {min(unknown)}: there is none of this name; the inputs are {names}")
    sizes: dict[str, int] = {}
    given: Arrays = {}
    for spec in specs:
        if spec.name not in inputs:
            raise UserError(f"input {spec.name} is missing; the inputs are {names}")
        given[spec.name] = _cast(spec, np.asarray(inputs[spec.name]))
        _check_shape(spec, given[spec.name].shape, sizes)
    return given


def _cast(spec: TensorSpec, array: Array) -> Array:
    dtype = np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
    if array.dtype != dtype and not (array.dtype.kind == dtype.kind == "f" or np.can_cast(array.dtype, dtype)):
        raise UserError(f"input {spec.name} is {array.dtype}; expected {spec.dtype}")
    return np.asarray(array, dtype, order="C")


def _check_shape(spec: TensorSpec, shape: Sequence[int], sizes: dict[str, int]) -> None:
    wanted = f"[{', '.join(map(str, spec.shape))}]"
    if len(shape) != len(spec.shape):
        raise UserError(f"input {spec.name} has the shape {list(shape)}; expected {wanted}")
    for axis, size in zip(spec.shape, shape, strict=True):
        expected = sizes.setdefault(axis, size) if isinstance(axis, str) else axis
        if size != expected:
            elsewhere = f", and {axis} is {expected} elsewhere" if isinstance(axis, str) else ""
            raise UserError(f"input {spec.name} has the shape {list(shape)}; expected {wanted}{elsewhere}")
