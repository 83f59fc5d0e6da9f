"""Traces a causal language model of transformers: what ``exporter/trace.py`` is told of tokens, lengths and caches."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqexport.exporter.interface import Inputs
from seqexport.exporter.layers import MARK, LayerStack, layer_stack, representatives_only, translate_mark
from seqexport.exporter.passes.repeat_layers import repeat_layers
from seqexport.exporter.states import GraphStates
from seqexport.exporter.trace import capture, finish, run_on_fakes
from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import StateSpec

logger = logging.getLogger(__name__)

BATCH, SEQ = 2, 3
"""Sizes of the example inputs: different, and above 1, or torch.export takes them for constants."""

AXES = {"input_ids": {0: "batch", 1: "seq"}, "seq_lens": {0: "batch"}, "past_lens": {0: "batch"}}


class Step(nn.Module):
    """One call of the model with every state explicit: prefill, a chunk of it, or decode."""

    def __init__(self, model: PreTrainedModel, states: GraphStates, *, last_only: bool) -> None:
        super().__init__()
        self.model, self.states, self.last_only = model, states, last_only
        parameters = inspect.signature(model.forward).parameters
        self.cache_argument = "cache_params" if "cache_params" in parameters else "past_key_values"
        self.takes_positions = "position_ids" in parameters

    def forward(self, input_ids: Tensor, seq_lens: Tensor, past_lens: Tensor) -> dict[str, Tensor]:
        self.states.set_lengths(seq_lens, past_lens)
        arguments: dict[str, Any] = {self.cache_argument: self.states, "use_cache": True}
        if self.takes_positions:
            arguments["position_ids"] = positions(input_ids, seq_lens, past_lens)
        with last_token_alone(self.model, seq_lens) if self.last_only else nullcontext():
            logits = self.model(input_ids=input_ids, return_dict=True, **arguments).logits
        return {"logits": logits.float()}


def positions(input_ids: Tensor, seq_lens: Tensor, past_lens: Tensor) -> Tensor:
    """int64[B,L]: each token's index in its row; padded tokens repeat the last valid one's, to stay in range."""
    first = past_lens.long()[:, None]
    last = (first + seq_lens.long()[:, None] - 1).clamp(min=0)
    return torch.minimum(first + torch.arange(input_ids.shape[1]), last)


@contextmanager
def last_token_alone(model: PreTrainedModel, seq_lens: Tensor) -> Iterator[None]:
    """The output projection is given the hidden state of each row's last valid token, and no other."""

    def keep_last(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = args  # [B,L,H]
        last = (seq_lens.long() - 1).clamp(min=0)
        return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])), *rest

    handle = model.get_output_embeddings().register_forward_pre_hook(keep_last)
    try:
        yield
    finally:
        handle.remove()


def example_inputs() -> Inputs:
    lens = torch.full((BATCH,), SEQ, dtype=torch.int32)
    ids = torch.zeros(BATCH, SEQ, dtype=torch.int64)
    return {"input_ids": ids, "seq_lens": lens, "past_lens": torch.zeros_like(lens)}


def discover_states(model: PreTrainedModel) -> list[StateSpec]:
    """Which states the model keeps, found by running it on fake tensors with nothing in its cache.

    Raises:
        UserError: none, or such as none of our ops computes.
    """
    states = GraphStates()
    step = Step(model, states, last_only=False)
    run_on_fakes(step, example_inputs(), states)
    states.check_discovered()
    specs = list(states.specs.values())
    if not specs:
        raise UserError("it keeps no states in its cache that the exporter knows")
    if any(spec.grows for spec in specs) and not step.takes_positions:
        raise UserError(f"{type(model).__name__} attends and takes no position_ids; this is not supported")
    return specs


def trace(model: PreTrainedModel, specs: Sequence[StateSpec], *, opset: int, last_only: bool) -> ir.Model:
    """The model as ONNX: our ops as nodes of the domain ``seqexport``, weights still shared with the module."""
    graph = _trace_representatives(model, specs, opset=opset, last_only=last_only)
    if graph is None:
        graph = _trace(model, specs, opset=opset, last_only=last_only)
    finish(graph)
    return graph


def _trace(model: PreTrainedModel, specs: Sequence[StateSpec], *, opset: int, last_only: bool) -> ir.Model:
    states = GraphStates(specs)
    step = Step(model, states, last_only=last_only)
    translations = {MARK: translate_mark}
    return capture(step, example_inputs(), AXES, states, opset=opset, translations=translations)


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
        discover_states(model)  # what speaks against it is mostly seen here, before the long work
    with representatives_only(stack):
        graph = _trace(model, traced, opset=opset, last_only=last_only)
    tensors = (*model.named_parameters(), *model.named_buffers())
    repeat_layers(graph, stack, specs, {f"model.{name}": tensor for name, tensor in tensors})
    return graph
