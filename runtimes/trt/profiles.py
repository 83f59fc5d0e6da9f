"""Which shapes an engine takes: its optimisation profiles, from a bundle's manifest and trtexec's shape options.

Profile 0, ``prefill``: ``seq`` from 1 to all that the capacity holds, at most 2048. Profile 1, ``decode``: ``seq`` 1.
In both, ``batch`` from 1 to 4, and the caches' ``max_len`` from 1 to the capacity.

The engine of any other module has one profile, ``default``: the sizes that its bundle has recorded calls of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import Manifest, TensorSpec
from seqexport.runtimes.trt.record import Profile, Shape

LONGEST_CHUNK, BEST_CHUNK, LARGEST_BATCH = 2048, 512, 4
KINDS = ("min", "opt", "max")
DEFAULT = "default"
"""The one profile of any module's engine."""

Shapes = Mapping[str, Shape]
Range = tuple[int, int, int]
"""Smallest, best, largest."""


@dataclass(frozen=True)
class GivenShapes:
    """``--minShapes``, ``--optShapes`` and ``--maxShapes``: the shapes of some inputs, by name."""

    min: Shapes = field(default_factory=dict)
    opt: Shapes = field(default_factory=dict)
    max: Shapes = field(default_factory=dict)


def parse_shapes(option: str, text: str | None) -> dict[str, Shape]:
    """``input_ids:1x128,seq_lens:1`` to shapes by name.

    Raises:
        UserError: naming the option and the part that is no shape.
    """
    shapes: dict[str, Shape] = {}
    for part in text.split(",") if text else ():
        name, _, sizes = part.rpartition(":")
        if not name or not re.fullmatch(r"[1-9]\d{0,9}(x[1-9]\d{0,9})*", sizes) or name in shapes:
            raise UserError(f"{option} {part!r}: expected each input once, as in input_ids:1x128,seq_lens:1")
        shapes[name] = tuple(int(size) for size in sizes.split("x"))
    return shapes


def bundle_profiles(manifest: Manifest, given: GivenShapes = GivenShapes()) -> dict[str, Profile]:
    """The profiles of a bundle's engine. A given shape sets its named axes in every input; decode follows prefill.

    Raises:
        UserError: a shape does not fit the graph's inputs, or the sizes contradict each other or the capacity.
    """
    capacity = manifest.capacity
    prompt = LONGEST_CHUNK if capacity is None else min(capacity, LONGEST_CHUNK)
    usual: dict[str, Range] = {
        "batch": (1, 1, LARGEST_BATCH),
        "seq": (1, min(prompt, BEST_CHUNK), prompt),
        "max_len": (1, capacity or 1, capacity or 1),
    }
    for spec in manifest.inputs:
        for axis in spec.shape:
            if isinstance(axis, str) and axis not in usual:
                raise UserError(
                    f"input {spec.name} has an axis {axis}: engines of bundles are built for {', '.join(usual)}"
                )
    ranges = _ranges(manifest, usual, given)
    for axis in ("seq", "max_len"):
        if capacity is not None and ranges[axis][2] > capacity:
            raise UserError(
                f"--maxShapes: {axis} of {ranges[axis][2]}, and the bundle's capacity is {capacity} tokens; give less"
                f"{manifest.or_hold_more}"
            )
    return {"prefill": _profile(manifest, ranges), "decode": _profile(manifest, {**ranges, "seq": (1, 1, 1)})}


def module_profile(
    manifest: Manifest, recorded: Sequence[Mapping[str, int]], given: GivenShapes = GivenShapes()
) -> dict[str, Profile]:
    """The profile of any module's engine: best at the first of the recorded sizes, and for all between them.

    Raises:
        UserError: a shape does not fit the graph's inputs, or the sizes contradict each other.
    """
    best = recorded[0]
    usual = {axis: (min(n[axis] for n in recorded), best[axis], max(n[axis] for n in recorded)) for axis in best}
    return {DEFAULT: _profile(manifest, _ranges(manifest, usual, given))}


def _ranges(manifest: Manifest, usual: Mapping[str, Range], given: GivenShapes) -> dict[str, Range]:
    sizes = {kind: _axes(manifest, f"--{kind}Shapes", getattr(given, kind)) for kind in KINDS}
    return {axis: _overridden(axis, usual[axis], sizes) for axis in usual}


def _axes(manifest: Manifest, option: str, shapes: Shapes) -> dict[str, int]:
    """The size of each named axis in the given shapes."""
    axes: dict[str, int] = {}
    for name, shape in shapes.items():
        spec = manifest.input_named(name)
        if spec is None:
            raise UserError(f"{option} {name}: the graph's inputs are {', '.join(s.name for s in manifest.inputs)}")
        what = f"{option} {name}:{'x'.join(map(str, shape))}"
        if not _fits(shape, spec.shape):
            raise UserError(f"{what}: the input's shape is {'x'.join(map(str, spec.shape))}")
        for axis, size in zip(spec.shape, shape, strict=True):
            if isinstance(axis, str) and axes.setdefault(axis, size) != size:
                raise UserError(f"{what}: another shape of {option} has a {axis} of {axes[axis]}; expected one size")
    return axes


def _fits(shape: Shape, axes: Sequence[int | str]) -> bool:
    """Whether a shape has the fixed sizes among the axes; others are names or -1."""
    same_rank = len(shape) == len(axes)
    return same_rank and all(isinstance(a, str) or a in (-1, n) for a, n in zip(axes, shape, strict=True))


def _overridden(axis: str, usual: Range, sizes: Mapping[str, Mapping[str, int]]) -> Range:
    """What is given, and the usual sizes moved out of its way."""
    low, best, high = (sizes[kind].get(axis) for kind in KINDS)
    largest = high or max(usual[2], low or 1, best or 1)
    smallest = low or min(usual[0], best or usual[0], largest)
    middle = best or min(max(usual[1], smallest), largest)
    if not smallest <= middle <= largest:
        raise UserError(
            f"{axis}: {smallest} of --minShapes, {middle} of --optShapes, {largest} of --maxShapes; expected an "
            "ascending order"
        )
    return smallest, middle, largest


def _profile(manifest: Manifest, ranges: Mapping[str, Range]) -> Profile:
    return {spec.name: _shapes(spec, ranges) for spec in manifest.inputs}


def _shapes(spec: TensorSpec, ranges: Mapping[str, Range]) -> tuple[Shape, Shape, Shape]:
    low, best, high = (tuple(a if isinstance(a, int) else ranges[a][i] for a in spec.shape) for i in range(3))
    return low, best, high


def plain_profile(inputs: Mapping[str, Shape], given: GivenShapes) -> Profile:
    """The one profile of a foreign graph, of its inputs' shapes where -1 is a size that a call chooses.

    Raises:
        UserError: an input with such a size has no given shape.
    """
    for kind in KINDS:
        for name, shape in getattr(given, kind).items():
            if name not in inputs or not _fits(shape, inputs[name]):
                raise UserError(f"--{kind}Shapes {name}: the graph's inputs are {_listed(inputs)}")
    profile: Profile = {}
    for name, shape in inputs.items():
        low, best, high = (getattr(given, kind).get(name) for kind in KINDS)
        some = best or high or low or (shape if -1 not in shape else None)
        if some is None:
            raise UserError(
                f"input {name} has the shape {'x'.join(map(str, shape))}: say how large it is with "
                f"--minShapes, --optShapes and --maxShapes, as in --optShapes {name}:1x128"
            )
        profile[name] = (low or some, some, high or some)
    return profile


def _listed(inputs: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in inputs.items())
