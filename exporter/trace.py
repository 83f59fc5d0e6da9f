"""Traces a transformers model into an ONNX graph of our ops, with its states as inputs and outputs."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx.defs import OpSchema
from onnxscript import values as onnxscript_values
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from seqexport.exporter.layers import LayerStack, layer_stack, representatives_only
from seqexport.exporter.passes.cancel_transposes import cancel_transposes
from seqexport.exporter.passes.fold_parameters import fold_parameters
from seqexport.exporter.passes.repeat_layers import repeat_layers
from seqexport.exporter.passes.simplify import simplify
from seqexport.exporter.patches import hooked
from seqexport.exporter.states import GraphStates
from seqexport.plugins.errors import UserError
from seqexport.plugins.ops import DOMAIN, OPS, VERSION, Op
from seqexport.plugins.ops.op import TYPES
from seqexport.runtimes.manifest import StateSpec

logger = logging.getLogger(__name__)

BATCH, SEQ, MAX_LEN = 2, 3, 7
"""Sizes of the example inputs: all different and above 1, or torch.export takes them for constants."""


class Step(nn.Module):
    """One call of the model with every state explicit: prefill, a chunk of it, or decode."""

    def __init__(self, model: PreTrainedModel, states: GraphStates) -> None:
        super().__init__()
        self.model, self.states = model, states
        parameters = inspect.signature(model.forward).parameters
        self.cache_argument = "cache_params" if "cache_params" in parameters else "past_key_values"
        self.takes_positions = "position_ids" in parameters

    def forward(self, input_ids: Tensor, seq_lens: Tensor, past_lens: Tensor, past: list[Tensor]) -> list[Tensor]:
        keys = self.states.specs
        self.states.begin(seq_lens, past_lens, dict(zip(keys, past, strict=True)) if past else None)
        arguments: dict[str, Any] = {self.cache_argument: self.states, "use_cache": True}
        if self.takes_positions:
            arguments["position_ids"] = positions(input_ids, seq_lens, past_lens)
        logits = self.model(input_ids=input_ids, return_dict=True, **arguments).logits
        return [logits.float(), *self.states.present]


def positions(input_ids: Tensor, seq_lens: Tensor, past_lens: Tensor) -> Tensor:
    """int64[B,L]: each token's index in its row; padded tokens repeat the last valid one's, to stay in range."""
    first = past_lens.long()[:, None]
    last = (first + seq_lens.long()[:, None] - 1).clamp(min=0)
    return torch.minimum(first + torch.arange(input_ids.shape[1]), last)


def discover_states(model: PreTrainedModel) -> list[StateSpec]:
    """Which states the model keeps, found by running it on fake tensors with nothing in its cache."""
    states = GraphStates()
    with hooked(model, states, last_only=False), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        ids = torch.zeros(BATCH, SEQ, dtype=torch.int64)
        lens = torch.full((BATCH,), SEQ, dtype=torch.int32)
        step = Step(model, states)
        step(ids, lens, torch.zeros_like(lens), [])
    states.check_discovered()
    specs = list(states.specs.values())
    if any(spec.grows for spec in specs) and not step.takes_positions:
        raise UserError(f"{type(model).__name__} attends and takes no position_ids; this is not supported")
    return specs


def trace(model: PreTrainedModel, specs: Sequence[StateSpec], *, opset: int, last_only: bool) -> ir.Model:
    """The model as ONNX: our ops as nodes of the domain ``seqexport``, weights still shared with the module."""
    graph = _trace_representatives(model, specs, opset=opset, last_only=last_only)
    if graph is None:
        graph = _trace(model, specs, opset=opset, last_only=last_only)
        _tidy(graph)
    fold_parameters(graph)
    _drop_unused_inputs(graph.graph)
    return graph


def _trace_representatives(
    model: PreTrainedModel, specs: Sequence[StateSpec], *, opset: int, last_only: bool
) -> ir.Model | None:
    """The graph out of one traced layer of each kind; None where that cannot be, whatever the reason."""
    try:
        stack = layer_stack(model)
        return None if stack is None else _repeated(model, specs, stack, opset=opset, last_only=last_only)
    except Exception as error:
        logger.debug("%s is traced whole, not a layer of each kind: %s", type(model).__name__, error, exc_info=True)
        return None


def _repeated(
    model: PreTrainedModel, specs: Sequence[StateSpec], stack: LayerStack, *, opset: int, last_only: bool
) -> ir.Model:
    traced = [spec for spec in specs if spec.layer in stack.representatives]
    with representatives_only(stack):
        graph = _trace(model, traced, opset=opset, last_only=last_only)
    _tidy(graph)
    tensors = {f"model.{name}": tensor for name, tensor in (*model.named_parameters(), *model.named_buffers())}

    def parameter(name: str) -> ir.TensorProtocol:
        return ir.tensor_adapters.TorchTensor(tensors[name].detach(), name=name)

    repeat_layers(graph, stack, specs, parameter)
    return graph


def _drop_unused_inputs(graph: ir.Graph) -> None:
    used = [value for value in graph.inputs if value.uses() or value.is_graph_output()]
    graph.inputs.clear()
    graph.inputs.extend(used)


def _tidy(graph: ir.Model) -> None:
    simplify(graph)
    cancel_transposes(graph)


def _trace(model: PreTrainedModel, specs: Sequence[StateSpec], *, opset: int, last_only: bool) -> ir.Model:
    states = GraphStates()
    states.specs = {(spec.layer, spec.kind): spec for spec in specs}
    sizes = {"batch": BATCH, "max_len": MAX_LEN}
    past = [_example(spec, sizes) for spec in specs]
    lens = torch.full((BATCH,), SEQ, dtype=torch.int32)
    inputs = (torch.zeros(BATCH, SEQ, dtype=torch.int64), lens, torch.zeros_like(lens), past)
    with hooked(model, states, last_only=last_only), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Step(model, states).eval(),
            inputs,
            dynamo=True,
            verbose=False,
            optimize=False,
            opset_version=opset,
            input_names=["input_ids", "seq_lens", "past_lens", *(spec.past_name for spec in specs)],
            output_names=["logits", *(spec.present_name for spec in specs)],
            dynamic_shapes=_dynamic_shapes(specs),
            custom_translation_table={
                **{_torch_op(op): _translation(op) for op in OPS.values()},
                MARK: _translate_mark,
            },
        )
    assert program is not None
    return program.model


def _example(spec: StateSpec, sizes: dict[str, int]) -> Tensor:
    shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))


def _dynamic_shapes(specs: Sequence[StateSpec]) -> tuple[Any, ...]:
    named = {name: torch.export.Dim(name) for name in ("batch", "seq", "max_len")}
    lens = {0: named["batch"]}
    past = [{i: named[axis] for i, axis in enumerate(spec.shape) if isinstance(axis, str)} for spec in specs]
    return ({0: named["batch"], 1: named["seq"]}, lens, lens, past)


MARK = torch.ops.seqexport.mark.default


def _translate_mark(x: Any, layer: int, edge: int) -> Any:
    identity = OpSchema(
        "Mark",
        DOMAIN,
        VERSION,
        inputs=[OpSchema.FormalParameter("x", "T")],
        outputs=[OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", TYPES["T"], "")],
        attributes=[OpSchema.Attribute(n, OpSchema.AttrType.INT, required=True) for n in ("layer", "edge")],
    )
    node = onnxscript_values.Op(onnxscript_values.Opset(DOMAIN, VERSION), "Mark", identity)
    return node(x, layer=layer, edge=edge)


def _torch_op(op: Op) -> Any:
    return getattr(torch.ops.seqexport, op.stem).default


def _translation(op: Op) -> Any:
    """The ONNX node for a call of ``torch.ops.seqexport.<stem>``: tensors as inputs, the rest as attributes."""
    node = onnxscript_values.Op(onnxscript_values.Opset(DOMAIN, VERSION), op.name, op.onnx_schema)
    n = len(op.inputs)

    def translate(*args: Any) -> Any:
        attributes = dict(zip(op.attributes, args[n:], strict=False))
        return node(*args[:n], **{**op.attributes, **attributes})

    return translate
