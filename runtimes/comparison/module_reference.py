"""What the PyTorch original of any module answers, recorded in the bundle: inputs, and its outputs in float64.

``reference.safetensors`` holds several calls of the module: at the sizes of the examples, at others along each dynamic
axis, and where it has states, one that goes on from the states that the first left. Its metadata holds PyTorch's own
relative error in the bundle's dtype of each output over all calls: ours may be at most twice as large.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.comparison.reference import relative_error
from seqexport.runtimes.comparison.reference_file import held_reference
from seqexport.runtimes.finite import ADVICE, not_finite
from seqexport.runtimes.manifest import Manifest
from seqexport.runtimes.module import Array, Arrays, ModuleRunner

MOST_CALLS = 1024
"""Of a reference that is read."""

ENOUGH, MOST_DRAWS = 64, 16
"""Values that an output must give for its error to say something, and calls at most that are made for them."""

Sizes = dict[str, int]
"""Of each dynamic axis by name."""


@dataclass(frozen=True)
class Case:
    """One call: inputs as the module takes them (bfloat16 as float32), and float64 answers by output."""

    inputs: Arrays
    answers: Arrays = field(default_factory=dict)

    def sizes(self, manifest: Manifest) -> Sizes:
        """Of the dynamic axes in this call."""
        return {
            axis: size
            for spec in manifest.inputs
            for axis, size in zip(spec.shape, self.inputs[spec.name].shape, strict=True)
            if isinstance(axis, str)
        }


@dataclass(frozen=True)
class ModuleReference:
    """Recorded calls.

    Attributes:
        cases: the first is at the examples' sizes.
        torch_errors: PyTorch's relative error in the bundle's dtype, root mean square over the calls, by output.
        not_recorded: dynamic axes of which only the examples' sizes are recorded, each with why.
    """

    cases: tuple[Case, ...]
    torch_errors: dict[str, float] = field(default_factory=dict)
    not_recorded: dict[str, str] = field(default_factory=dict)


class Errors:
    """Relative errors of each output, root mean square over calls."""

    def __init__(self) -> None:
        self._squares: dict[str, list[float]] = {}

    def add(self, actual: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
        for name, value in expected.items():
            self._squares.setdefault(name, []).append(relative_error(np.asarray(actual[name]), value) ** 2)

    def __getitem__(self, name: str) -> float:
        return float(np.sqrt(np.mean(self._squares[name])))

    def all(self) -> dict[str, float]:
        return {name: self[name] for name in self._squares}


def drawn(example: Array, shape: Sequence[int], random: np.random.Generator) -> Array:
    """An array of another call, whose values are drawn from the example's; of floats that are all 0, normal ones."""
    if example.dtype.kind == "f" and example.size > 1 and not example.any():
        return random.standard_normal(shape).astype(example.dtype)
    if example.size == 0:
        return np.zeros(shape, example.dtype)
    return np.asarray(random.choice(example.reshape(-1), tuple(shape)))


def record(
    native: ModuleRunner,
    float64: ModuleRunner,
    calls: Sequence[Arrays],
    draw: Callable[[np.random.Generator], Arrays],
) -> tuple[tuple[Case, ...], dict[str, float]]:
    """Run the original in its own dtype and in float64.

    Args:
        native, float64: the original.
        calls: the inputs of each call that is recorded.
        draw: more inputs at the examples' sizes, for outputs of few values.

    Returns:
        The cases, and PyTorch's own errors.

    Raises:
        UserError: an output is not finite, or the original fails.
    """
    cases, errors = [], Errors()
    for inputs in calls:
        cases.append(_case(native, float64, inputs, errors))
    if states := native.carried(cases[0].answers):
        held = {name: value.astype(cases[0].inputs[name].dtype) for name, value in states.items()}
        cases.append(_case(native, float64, {**cases[0].inputs, **held}, errors))
    fewest = min((value.size for value in cases[0].answers.values()), default=ENOUGH)
    random = np.random.default_rng(1)
    for _ in range(min(-(-ENOUGH // max(fewest, 1)), MOST_DRAWS) - len(cases)):
        cases.append(_case(native, float64, draw(random), errors))
    return tuple(cases), errors.all()


def _case(native: ModuleRunner, float64: ModuleRunner, inputs: Arrays, errors: Errors) -> Case:
    answers = {name: np.asarray(value, np.float64) for name, value in float64(inputs).items()}
    own = native(inputs)
    dtype = native.manifest.dtype
    for name, value in answers.items():
        if told := not_finite(value):
            raise UserError(f"its output {name} is not finite even in float64: {told}; give examples that it is for")
        if own[name].shape != value.shape:
            raise UserError(f"its output {name} has another shape in float64: {list(value.shape)}")
        if told := not_finite(own[name]):
            raise UserError(f"its output {name} is not finite in PyTorch's own run in {dtype}: {told}; {ADVICE[dtype]}")
    errors.add(own, answers)
    return Case(inputs, answers)


def write_module_reference(path: Path, reference: ModuleReference) -> None:
    tensors: Arrays = {}
    for index, case in enumerate(reference.cases):
        for kind, arrays in (("input", case.inputs), ("answer", case.answers)):
            tensors |= {f"case{index}.{kind}.{name}": np.asarray(x, order="C") for name, x in arrays.items()}
    metadata = {"torch_errors": reference.torch_errors, "not_recorded": reference.not_recorded}
    texts = {name: json.dumps(value, allow_nan=False) for name, value in metadata.items()}
    path.write_bytes(save(tensors, metadata=texts))


def read_module_reference(bundle: Bundle) -> ModuleReference:
    """Read what was recorded with a bundle.

    Raises:
        UserError: there is nothing, or it is damaged or of another module.
    """
    manifest = bundle.manifest
    with held_reference(bundle.reference, "export the module again") as (file, metadata):
        keys = sorted(file.keys())
        count = len({key.partition(".")[0] for key in keys})
        if not 1 <= count <= MOST_CALLS:
            raise ValueError(f"it has {count} calls; expected 1 to {MOST_CALLS}")
        whole = tuple(_read_case(file, keys, f"case{index}", manifest) for index in range(count))
        errors = {spec.name: float(metadata["torch_errors"][spec.name]) for spec in manifest.outputs}
        not_recorded = {str(axis): str(why) for axis, why in metadata["not_recorded"].items()}
        return ModuleReference(whole, errors, not_recorded)


def _read_case(file: Any, keys: Sequence[str], place: str, manifest: Manifest) -> Case:
    """A call with every input of the graph, and those that it does without, and every output."""
    case = Case({}, {})
    for kind, kept in (("input", case.inputs), ("answer", case.answers)):
        prefix = f"{place}.{kind}."
        kept |= {key.removeprefix(prefix): file.get_tensor(key) for key in keys if key.startswith(prefix)}
    outputs = {spec.name for spec in manifest.outputs}
    if missing := ({spec.name for spec in manifest.inputs} - case.inputs.keys()) | (outputs ^ case.answers.keys()):
        raise ValueError(f"it is of another module: {min(missing)}")
    for spec in (*manifest.inputs, *manifest.outputs):
        value = case.answers.get(spec.name, case.inputs.get(spec.name))
        if value is None or len(value.shape) != len(spec.shape):
            raise ValueError(f"{place}: {spec.name} has not {len(spec.shape)} axes")
    return case
