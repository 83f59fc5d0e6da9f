"""From any module to a bundle: trace, finish for a target, write, record the original's answers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from seqexport.exporter import notes
from seqexport.exporter.destination import Destination, destination
from seqexport.exporter.interface import DynamicAxes, named_axes
from seqexport.exporter.other_sizes import other_sizes, resized
from seqexport.exporter.standins import mamba_ssm
from seqexport.exporter.targets import finish_for
from seqexport.exporter.trace import DEFAULT_OPSET, Traced, Translations, trace_module
from seqexport.exporter.writing import Stage, check_opset, our_ops, source_of, tensor_specs, write_bundle
from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import FACTORY, MEMORY, Bundle
from seqexport.runtimes.comparison.module_reference import (
    ModuleReference,
    Sizes,
    drawn,
    record,
    write_module_reference,
)
from seqexport.runtimes.manifest import FORMAT_VERSION, Manifest, Role, Target, dtype_name
from seqexport.runtimes.module import Arrays
from seqexport.runtimes.pytorch.checkpoint import DTYPES
from seqexport.runtimes.pytorch.factory import make_module
from seqexport.runtimes.pytorch.module import TorchModule, module_dtype
from seqexport.runtimes.pytorch.outputs import to_numpy
from seqexport.runtimes.pytorch.weights import check_finite

Axes = Mapping[str, Mapping[int, str] | Sequence[str | int | None]]
"""The axes of inputs: by index the name of each dynamic one; or of all in order, those that stay by size or None."""


@dataclass(frozen=True)
class ModuleOptions:
    """What an export is asked for. ``seqexport.export`` explains each."""

    inputs: Mapping[str, Any]
    dynamic: Axes = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    weights: Path | None = None
    dtype: str | None = None
    target: Target = "portable"
    opset: int = DEFAULT_OPSET
    force: bool = False
    translations: Translations | None = None


def export_module(
    model: str | nn.Module,
    options: ModuleOptions,
    output: Path,
    stage: Stage,
    note: Callable[[str], None] = lambda said: None,
    passes: Sequence[ir.passes.PassBase] = (),
) -> Bundle:
    """Write the bundle ``output``; nothing of that name appears before it is whole. The module stays as it is.

    Args:
        model: the module, or ``package.module:factory``, whose code is run.

    Raises:
        UserError: the module, its inputs or their axes cannot be exported, or the output cannot be written; nothing is
            left behind.
    """
    check_opset(options.opset, options.target)
    with mamba_ssm(), destination(output, force=options.force) as place:
        return _exported(model, options, place, stage, note, passes)


def _exported(
    model: str | nn.Module,
    options: ModuleOptions,
    output: Destination,
    stage: Stage,
    note: Callable[[str], None],
    passes: Sequence[ir.passes.PassBase],
) -> Bundle:
    with stage(f"load {model if isinstance(model, str) else type(model).__name__}"):
        module = _given(model, options)
        original = _ready(module, options.dtype)
    kind = type(module).__name__
    if not isinstance(model, str) and any(each.training for each in module.modules()):
        note(f"{kind} is in training mode: it is exported as it is in evaluation mode, and stays in training mode")
    dtype = _dtype(original, options)
    inputs = _examples(original, options, dtype)
    axes = indexed_axes(inputs, options.dynamic)
    for said in notes.of_dtype(dtype, options.target):
        note(said)
    with stage("trace"):
        examples = resized(inputs, axes, _at_least_two(inputs, axes))
        axes = named_axes(original, examples, axes)
        sizes, not_recorded = other_sizes(original, inputs, axes)
        traced = trace_module(
            original,
            examples,
            axes,
            options.states,
            opset=options.opset,
            translations=options.translations,
            least=_least(inputs, axes, sizes),
        )
        _check_states(traced)
        for name in inputs.keys() - {value.name for value in traced.graph.graph.inputs}:
            note(f"input {name}: nothing reads it, and the graph goes without it")
    with stage(f"finish for target {options.target}"):
        ops = our_ops(traced.graph)
        graph = finish_for(options.target, traced.graph, passes)
        ops |= our_ops(graph)
    source = f"{FACTORY}{model}" if isinstance(model, str) else f"{MEMORY}{kind}"
    manifest = _manifest(original, source, options, dtype, graph, traced, ops)
    for axis, why in not_recorded.items():
        note(f"no other size of {axis} is checked: {why}")
    calls = [inputs, *(resized(inputs, axes, each) for each in sizes)]
    return write_bundle(
        output, manifest, graph, stage, record=lambda bundle: _record(bundle, original, calls, not_recorded)
    )


def _least(inputs: Mapping[str, Tensor], axes: DynamicAxes, tried: Sequence[Sizes]) -> dict[str, int]:
    """Of each dynamic axis the smallest size that is known to run: the example's own, or one that was tried."""
    least = {axis: inputs[name].shape[index] for name in axes for index, axis in axes[name].items()}
    for sizes in tried:
        least |= {axis: min(size, least[axis]) for axis, size in sizes.items()}
    return least


def _given(model: Any, options: ModuleOptions) -> nn.Module:
    if isinstance(model, str):
        return make_module(model, options.weights)
    if not isinstance(model, nn.Module):
        raise UserError(f"`model`: expected a torch.nn.Module with `inputs`, got {type(model).__name__}")
    if options.weights is not None:
        raise UserError("`weights` are of a module that a factory makes; a module that is given has its own")
    return model


def _ready(module: nn.Module, dtype: str | None) -> nn.Module:
    """The module, or a copy of it on the CPU and in the dtype.

    Raises:
        UserError: its weights are elsewhere, or not finite.
    """
    kind, tensors = type(module).__name__, [*module.parameters(), *module.buffers()]
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"`dtype` {dtype!r}: expected one of {', '.join(DTYPES)}")
    if any(tensor.is_meta for tensor in tensors):
        raise UserError(f"{kind} has weights on the meta device; load them first")
    wanted, there = None if dtype is None else getattr(torch, dtype), module_dtype(module)
    if any(tensor.device.type != "cpu" for tensor in tensors) or (wanted and there not in (None, wanted)):
        module = copy.deepcopy(module).to(device="cpu", dtype=wanted)
    check_finite(kind, [], module, None)
    return module


def _dtype(module: nn.Module, options: ModuleOptions) -> str:
    """Of the weights; without any, of the first floating input."""
    floats = [x.dtype for x in options.inputs.values() if isinstance(x, Tensor) and x.is_floating_point()]
    dtype = options.dtype or dtype_name(module_dtype(module) or next(iter(floats), torch.float32))
    if dtype not in DTYPES:
        kind = type(module).__name__
        raise UserError(f"{kind} is in {dtype}; expected {', '.join(DTYPES)}: choose one with `dtype`")
    return str(dtype)


def _examples(module: nn.Module, options: ModuleOptions, dtype: str) -> dict[str, Tensor]:
    """The inputs on the CPU; floats in the dtype where one is asked for. Zeros stand for any normal numbers."""
    if not options.inputs:
        raise UserError(f"{type(module).__name__}: give an example of each of its inputs with `inputs`")
    random, examples = np.random.default_rng(0), dict[str, Tensor]()
    for name, given in options.inputs.items():
        if not isinstance(given, Tensor | np.ndarray):
            raise UserError(f"input {name}: expected a tensor or an array, got {type(given).__name__}")
        tensor = torch.as_tensor(given).detach().cpu()
        if tensor.is_complex():
            raise UserError(f"input {name} is complex, for which ONNX has no ops; give its real and imaginary parts")
        if tensor.is_floating_point() and (options.dtype or tensor.dtype == torch.float64):
            tensor = tensor.to(getattr(torch, dtype))
        if tensor.is_floating_point() and not tensor.any() and name not in options.states:
            tensor = _as(tensor, drawn(to_numpy(tensor), tensor.shape, random))
        examples[name] = tensor
    return examples


def _as(like: Tensor, array: Any) -> Tensor:
    return torch.from_numpy(np.array(array)).to(like.dtype)


def indexed_axes(inputs: Mapping[str, Tensor], dynamic: Axes) -> DynamicAxes:
    """The dynamic axes by index.

    Raises:
        UserError: axes are listed of an input that is not there, or not all of them, or with another size.
    """
    axes: dict[str, dict[int, str]] = {}
    for name, named in dynamic.items():
        if name not in inputs:
            raise UserError(f"dynamic axes of {name}: the inputs are {', '.join(inputs)}")
        if isinstance(named, Mapping):
            axes[name] = {index % max(inputs[name].dim(), 1) if index < 0 else index: x for index, x in named.items()}
            continue
        shape = list(inputs[name].shape)
        if len(named) != len(shape):
            raise UserError(f"axes of {name}: {len(named)} are named, and its example is {shape}")
        for index, axis in enumerate(named):
            if isinstance(axis, int) and axis != shape[index]:
                raise UserError(f"axes of {name}: axis {index} is {axis}, and {shape[index]} in its example")
        axes[name] = {index: axis for index, axis in enumerate(named) if isinstance(axis, str)}
    return axes


def _at_least_two(inputs: Mapping[str, Tensor], axes: DynamicAxes) -> dict[str, int]:
    """Sizes for a trace, which takes an axis of 1 for a constant."""
    return {axis: 2 for name in axes for index, axis in axes[name].items() if _size(inputs[name], index) == 1}


def _size(tensor: Tensor, index: int) -> int:
    return tensor.shape[index] if index < tensor.dim() else 0


def _check_states(traced: Traced) -> None:
    for spec in traced.states:
        if spec.past is None:
            raise UserError(
                f"a patch keeps the state {spec.past_name}; of any module, only states that are named by `states` are"
            )
        if spec.dtype not in DTYPES:
            raise UserError(
                f"state {spec.past} is {spec.dtype}; expected one of {', '.join(DTYPES)}: leave it out of `states`, "
                "and give it as an input of your own"
            )


def _manifest(
    module: nn.Module,
    source: str,
    options: ModuleOptions,
    dtype: str,
    graph: ir.Model,
    traced: Traced,
    ops: dict[str, int],
) -> Manifest:
    roles: dict[str, Role] = {spec.past_name: "past" for spec in traced.states}
    roles |= {spec.present_name: "present" for spec in traced.states}
    return Manifest(
        format_version=FORMAT_VERSION,
        architecture=type(module).__name__,
        dtype=dtype,  # type: ignore[arg-type]
        target=options.target,
        opset=graph.graph.opset_imports[""],
        inputs=tensor_specs(graph.graph.inputs, lambda name: roles.get(name, "input")),
        outputs=tensor_specs(graph.graph.outputs, lambda name: roles.get(name, "output")),
        states=traced.states,
        caches_in_place=False,
        ops=ops,
        source=source_of(module, source),
        files={},
    )


def _record(
    bundle: Bundle, module: nn.Module, calls: Sequence[dict[str, Tensor]], not_recorded: dict[str, str]
) -> None:
    """The original's answers to calls, of which the first is the examples'."""
    native, float64 = TorchModule(bundle, module), TorchModule(bundle, module, arithmetic="float64")
    given = [_arrays(call) for call in calls]
    arrays = given[0]
    carried = {spec.past_name for spec in bundle.manifest.states}

    def draw(random: np.random.Generator) -> Arrays:
        return {name: x if name in carried else drawn(x, x.shape, random) for name, x in arrays.items()}

    cases, errors = record(native, float64, given, draw)
    write_module_reference(bundle.reference, ModuleReference(cases, errors, not_recorded))


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    return {name: to_numpy(tensor) for name, tensor in tensors.items()}
