"""At which other sizes of its dynamic axes a module runs, found on tensors without values: next to no time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from seqexport.exporter.interface import DynamicAxes
from seqexport.exporter.layers import representatives_only
from seqexport.exporter.repeated_parts import repeated_parts
from seqexport.runtimes.comparison.module_reference import Sizes, drawn
from seqexport.runtimes.pytorch.attributes import evaluating
from seqexport.runtimes.pytorch.outputs import to_numpy


def other_sizes(
    module: nn.Module, inputs: Mapping[str, Tensor], axes: DynamicAxes
) -> tuple[list[Sizes], dict[str, str]]:
    """Sizes above the examples' and below them, and the axes that have neither, each with why.

    A module may take no other size than a multiple of something, so that each axis is tried by itself: a little more,
    and of each axis another little, then twice or three times as much; and 1, then half. An axis that only grows, as a
    batch of one does, grows where the others shrink, so that no call is much larger than the example.
    """
    own = {axis: inputs[name].shape[index] for name in axes for index, axis in axes[name].items()}
    trial = _Trial(module, inputs, axes)
    larger: Sizes = {}
    smaller: Sizes = {}
    refused: dict[str, str] = {}
    for index, (axis, size) in enumerate(own.items()):
        failed = list[str]()
        more = (size + 1 + index, (2 if index % 2 else 3) * size, 2 * size)
        for found, tried in ((larger, more), (smaller, (1, size // 2))):
            runs = next(trial.running(axis, [n for n in tried if 0 < n != size], failed), None)
            if runs is not None:
                found[axis] = runs
        if axis not in larger and axis not in smaller:
            refused[axis] = failed[0] if failed else f"{size} is the only one that was tried"
    if smaller and smaller.keys() < larger.keys():
        smaller |= {axis: larger.pop(axis) for axis in larger.keys() - smaller.keys()}
    together = [sizes for sizes in (larger, smaller) if sizes]
    for sizes in list(together):
        if why := trial.why_not(sizes):
            together.remove(sizes)
            refused |= dict.fromkeys(sizes, f"together with the others {why}")
    return together, refused


class _Trial:
    """Runs a module at other sizes on tensors without values, one part of each kind where parts repeat each other."""

    def __init__(self, module: nn.Module, inputs: Mapping[str, Tensor], axes: DynamicAxes) -> None:
        self.module, self.inputs, self.axes = module, inputs, axes
        try:
            self.stack = repeated_parts(module, lambda: self._run({}))
        except Exception:  # the module tells why, at sizes that it is tried at
            self.stack = None

    def running(self, axis: str, tried: list[int], failed: list[str]) -> Iterator[int]:
        for size in tried:
            if why := self.why_not({axis: size}):
                failed.append(why)
            else:
                yield size

    def why_not(self, sizes: Sizes) -> str | None:
        """Why the module does not run at the sizes, if so."""
        if self._runs_in_part(sizes):
            return None
        try:
            self._run(sizes)
        except Exception as error:
            said = " ".join(str(error).split())[:160]
            return f"at {', '.join(map(str, sizes.values()))}, {type(error).__name__}: {said}"
        return None

    def _runs_in_part(self, sizes: Sizes) -> bool:
        if self.stack is None:
            return False
        try:
            with representatives_only(self.stack):
                self._run(sizes)
        except Exception:
            return False
        return True

    def _run(self, sizes: Sizes) -> None:
        with evaluating(self.module), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            self.module(**{name: _empty(x, self.axes.get(name, {}), sizes) for name, x in self.inputs.items()})


def _empty(tensor: Tensor, axes: Mapping[int, str], sizes: Sizes) -> Tensor:
    return torch.empty(_shape(tensor, axes, sizes), dtype=tensor.dtype)


def _shape(tensor: Tensor, axes: Mapping[int, str], sizes: Sizes) -> list[int]:
    return [sizes.get(axes.get(index, ""), size) for index, size in enumerate(tensor.shape)]


def resized(inputs: Mapping[str, Tensor], axes: DynamicAxes, sizes: Sizes) -> dict[str, Tensor]:
    """The examples with some dynamic axes in other sizes; their values are drawn from those of the example."""
    random, made = np.random.default_rng(2), dict[str, Tensor]()
    for name, tensor in inputs.items():
        shape = _shape(tensor, axes.get(name, {}), sizes)
        same = shape == list(tensor.shape)
        made[name] = tensor if same else torch.from_numpy(np.array(_drawn(tensor, shape, random))).to(tensor.dtype)
    return made


def _drawn(tensor: Tensor, shape: list[int], random: np.random.Generator) -> object:
    """Zeros, which by now are those of a state, stay zeros."""
    return drawn(to_numpy(tensor), shape, random) if tensor.any() else np.zeros(shape, to_numpy(tensor).dtype)
