"""Traces any module into an ONNX graph: our ops as nodes, dynamic axes by name, states as inputs and outputs.

Nothing here knows what a language model is; ``exporter/causal_lm.py`` feeds it one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
import torch._dynamo.config
from onnxscript import values as onnxscript_values
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from seqexport.exporter.explain import explained
from seqexport.exporter.interface import DynamicAxes, Inputs, explicit_state, named_axes
from seqexport.exporter.layers import MARK, representatives_only, translate_mark
from seqexport.exporter.passes import opset_27
from seqexport.exporter.passes.cancel_transposes import cancel_transposes
from seqexport.exporter.passes.einsum_to_matmul import einsum_to_matmul
from seqexport.exporter.passes.fold_parameters import fold_parameters
from seqexport.exporter.passes.part_directions import part_directions
from seqexport.exporter.passes.raise_maps import raise_maps
from seqexport.exporter.passes.repeat_layers import repeat_layers
from seqexport.exporter.passes.share_sizes import share_sizes
from seqexport.exporter.passes.simplify import simplify
from seqexport.exporter.patches import patched
from seqexport.exporter.repeated_parts import repeated_parts
from seqexport.exporter.states import GraphStates
from seqexport.plugins.errors import UserError
from seqexport.plugins.ops import DOMAIN, OPS, VERSION, Op
from seqexport.runtimes.manifest import StateSpec
from seqexport.runtimes.pytorch.attributes import evaluating
from seqexport.runtimes.pytorch.outputs import named_outputs

logger = logging.getLogger(__name__)

DEFAULT_OPSET = 20
TRACED_OPSETS = range(18, 24)
"""Those that PyTorch writes; a graph in opset 27 is one of the newest of them with another number."""

CAPACITY = 7
"""The example size of ``max_len``."""

Translations = Mapping[Any, Callable[..., Any]]


@dataclass(frozen=True)
class Traced:
    """A module as a graph.

    Attributes:
        graph: its inputs and outputs have the module's names, and the states' come last. Weights are still shared with
            the module, under its names for them.
        states: what the graph carries from call to call.
    """

    graph: ir.Model
    states: tuple[StateSpec, ...]


def trace_module(
    module: nn.Module,
    inputs: Inputs,
    dynamic_axes: DynamicAxes | None = None,
    states: Mapping[str, str] | None = None,
    *,
    opset: int = DEFAULT_OPSET,
    translations: Translations | None = None,
    least: Mapping[str, int] | None = None,
) -> Traced:
    """Trace a module, in evaluation mode; afterwards it is as it was.

    Kernels that the module calls by a name that ``exporter/patches`` knows are replaced by our ops, and the states that
    those keep become inputs ``past_key_values.<layer>.<kind>`` and outputs ``present.<layer>.<kind>``. Calls of
    ``torch.ops.seqexport.<op>`` become nodes as they are.

    Args:
        module: any module that ``torch.export`` can follow.
        inputs: an example of each tensor that ``module.forward`` is given, by keyword. Values do not matter; sizes of
            dynamic axes are to be 2 or more, or PyTorch takes them for constants.
        dynamic_axes: for each input that has some, the index of an axis (negative: from the end) and its name. Axes of
            one name are of one size in every call, and in the examples. All other axes are as the examples have them.
            Kernels that keep states by themselves need an axis ``batch``.
        states: explicit states: the input that holds a state before a call, and the output that holds it after. Both
            have one dtype and shape.
        opset: ONNX opset of the graph, 18 to 23, or 27.
        translations: for torch ops of your own, what makes ONNX nodes of a call (``torch.onnx.export``'s
            ``custom_translation_table``).
        least: of dynamic axes, by name, the smallest size that is known to run, where it is. PyTorch traces a module
            twice that wants more than some size, to find that out.

    Returns:
        The graph and its states. Outputs are named as the module names them: by the keys of a dictionary, the fields of
        a dataclass or named tuple, ``output_0``, ``output_1``, ... in a tuple, ``output`` for a single tensor; members
        of members have their names joined by a dot, and None is left out. An input that nothing reads is left out.

    Raises:
        UserError: inputs, axes or states do not fit the module or each other, or it cannot be traced.
    """
    axes = named_axes(module, inputs, dynamic_axes or {})
    with explained(module):
        found = discover_states(module, inputs)
        graph = None if found else _repeated(module, inputs, axes, opset, translations, least)
        if graph is None:
            states_kept = GraphStates(found, cached=False)
            graph = capture(module, inputs, axes, states_kept, opset=opset, translations=translations, least=least)
        _check_axes(graph.graph, axes)
        finish(graph)
    explicit = [explicit_state(graph.graph, past, present) for past, present in (states or {}).items()]
    return Traced(graph, (*explicit, *found))


def _repeated(
    module: nn.Module,
    inputs: Inputs,
    axes: DynamicAxes,
    opset: int,
    translations: Translations | None,
    least: Mapping[str, int] | None,
) -> ir.Model | None:
    """The graph out of one traced part of each kind; None where that cannot be, whatever the reason."""

    def run() -> None:
        run_on_fakes(module, inputs, GraphStates(cached=False))

    try:
        stack = repeated_parts(module, run)
        if stack is None:
            return None
        with representatives_only(stack):
            run()  # what speaks against it is mostly seen here, before the long work
        with representatives_only(stack):
            known = {MARK: translate_mark, **(translations or {})}
            states = GraphStates(cached=False)
            graph = capture(module, inputs, axes, states, opset=opset, translations=known, least=least)
        repeat_layers(graph, stack, [], dict((*module.named_parameters(), *module.named_buffers())))
    except Exception as error:
        logger.debug("%s is traced whole, not a part of each kind: %s", type(module).__name__, error, exc_info=True)
        return None
    return graph


def discover_states(module: nn.Module, inputs: Inputs) -> list[StateSpec]:
    """The states that a module's kernels keep by themselves, found by a run on tensors without values.

    Raises:
        UserError: it keeps what none of our ops computes.
    """
    states = GraphStates(cached=False)
    run_on_fakes(module, inputs, states)
    states.check_discovered()
    return list(states.specs.values())


def run_on_fakes(module: nn.Module, inputs: Inputs, states: GraphStates, past: Sequence[Tensor] = ()) -> None:
    """Run a module on tensors that have shapes and no values, which takes next to no time."""
    with evaluating(module), patched(module, states), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        tensors = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (*inputs.values(), *past)]
        _Call(module, inputs, states, lambda names: None)(*tensors)


def capture(
    module: nn.Module,
    inputs: Inputs,
    axes: DynamicAxes,
    states: GraphStates,
    *,
    opset: int,
    translations: Translations | None = None,
    least: Mapping[str, int] | None = None,
) -> ir.Model:
    """The graph of a module, tidied, with every parameter as the module has it; ``finish`` does the rest.

    The arguments are those of ``trace_module``, no axis counted from the end; ``states`` is what its kernels keep.
    """
    specs, told = list(states.specs.values()), list[list[str]]()
    written = TRACED_OPSETS[-1] if opset == opset_27.OPSET else opset
    sizes = {"max_len": CAPACITY} | {axis: inputs[name].shape[i] for name in axes for i, axis in axes[name].items()}
    past = [_example(spec, sizes) for spec in specs]
    names = [*inputs, *(spec.past_name for spec in specs)]
    with evaluating(module), patched(module, states), torch.no_grad(), warnings.catch_warnings(), uncached_shapes():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Call(module, inputs, states, told.append),
            (*inputs.values(), *past),
            dynamo=True,
            verbose=False,
            optimize=False,
            opset_version=written,
            input_names=names,
            dynamic_shapes=_dynamic_shapes(inputs, axes, specs, least or {}),
            custom_translation_table={
                **{getattr(torch.ops.seqexport, op.stem).default: _translation(op) for op in OPS.values()},
                **(translations or {}),
            },
        )
    assert program is not None
    graph: ir.Model = program.model
    if written != opset:
        graph.opset_imports[""] = opset
    _name_outputs(graph.graph, told[-1])
    share_sizes(graph)
    simplify(graph)
    einsum_to_matmul(graph)
    part_directions(graph)
    cancel_transposes(graph)
    raise_maps(graph)
    for value, name in zip(graph.graph.inputs, names, strict=True):
        value.name = name
    _name_outputs(graph.graph, told[-1])
    _name_parameters(graph.graph)
    return graph


EVERY_MODULE = 2
"""A size that PyTorch takes every module to run at."""


def uncached_shapes() -> AbstractContextManager[None]:
    """PyTorch infers each shape anew: where sizes are symbols, looking one up in its cache takes longer."""
    return torch._dynamo.config.patch(fake_tensor_cache_enabled=False)


def finish(graph: ir.Model) -> None:
    """Fold what is computed from parameters alone, and drop inputs that nothing reads."""
    fold_parameters(graph)
    used = [value for value in graph.graph.inputs if value.uses() or value.is_graph_output()]
    graph.graph.inputs.clear()
    graph.graph.inputs.extend(used)


PARAMETER_PREFIX = "module."
"""What ``_Call`` puts before the module's own names of its parameters."""


class _Call(nn.Module):
    """A module that is given its ``inputs`` and then its states in order; ``told`` is told the names of its outputs."""

    def __init__(
        self, module: nn.Module, inputs: Iterable[str], states: GraphStates, told: Callable[[list[str]], object]
    ) -> None:
        super().__init__()
        self.module, self.inputs, self.states, self.told = module, tuple(inputs), states, told
        self.training = module.training

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        self.states.begin(tensors[len(self.inputs) :])
        outputs = dict(named_outputs(self.module(**dict(zip(self.inputs, tensors, strict=False)))))
        self.told([*outputs, *(spec.present_name for spec in self.states.specs.values())])
        return [*outputs.values(), *self.states.present]


def _example(spec: StateSpec, sizes: Mapping[str, int]) -> Tensor:
    unknown = [axis for axis in spec.shape if isinstance(axis, str) and axis not in sizes]
    if unknown:
        raise UserError(f"it keeps states along an axis {unknown[0]}, and no dynamic axis of the inputs has this name")
    shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))


def _dynamic_shapes(
    inputs: Inputs, axes: DynamicAxes, states: Sequence[StateSpec], least: Mapping[str, int]
) -> tuple[Any, ...]:
    dims: dict[str, Any] = {}

    def dim(axis: str) -> Any:
        smallest = least.get(axis, 0)
        return dims.setdefault(axis, torch.export.Dim(axis, min=smallest if smallest > EVERY_MODULE else None))

    given = [{index: dim(axis) for index, axis in axes.get(name, {}).items()} for name in inputs]
    past = [{index: dim(axis) for index, axis in enumerate(spec.shape) if isinstance(axis, str)} for spec in states]
    return ((*given, *past),)


def _name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    taken = {str(value.name) for value in graph.inputs} & set(names)
    if taken:
        raise UserError(f"its output {min(taken)} has the name of an input")
    for value, name in zip(graph.outputs, names, strict=True):
        if not value.is_graph_input():  # until ``simplify`` has put a node between
            value.name = name


def _name_parameters(graph: ir.Graph) -> None:
    for value in list(graph.initializers.values()):
        name = value.name or ""
        if name.startswith(PARAMETER_PREFIX):
            value.name = name.removeprefix(PARAMETER_PREFIX)


def _check_axes(graph: ir.Graph, axes: DynamicAxes) -> None:
    """PyTorch makes a constant of an axis that the module computes with as one, and says nothing."""
    for value in graph.inputs:
        for index, axis in axes.get(value.name or "", {}).items():
            if value.shape is None or isinstance(value.shape[index], int):
                size = "" if value.shape is None else f", {value.shape[index]}"
                raise UserError(
                    f"axis {index} ({axis}) of {value.name} has one size only{size}: leave it out of the axes"
                )


def _translation(op: Op) -> Callable[..., Any]:
    """The ONNX node for a call of ``torch.ops.seqexport.<stem>``: tensors as inputs, the rest as attributes."""
    node = onnxscript_values.Op(onnxscript_values.Opset(DOMAIN, VERSION), op.name, op.onnx_schema)
    n = len(op.inputs)

    def translate(*args: Any) -> Any:
        _check_float32(op, args)
        attributes = dict(zip(op.attributes, args[n:], strict=False))
        made = node(*args[:n], **{**op.attributes, **attributes})
        return [made] if len(op.outputs) == 1 else made  # PyTorch's schema has a list

    return translate


def _check_float32(op: Op, args: Sequence[Any]) -> None:
    for (name, kind), value in zip(op.inputs.items(), args, strict=False):
        dtype = getattr(value, "dtype", None)
        if kind == "F" and dtype not in (None, ir.DataType.FLOAT):
            raise UserError(f"{op.name}: {name.rstrip('?')} is {ir.DataType(dtype).numpy()}; expected float32")
