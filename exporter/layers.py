"""Deep models repeat their layers: one layer of each kind is traced, and ``passes/repeat_layers.py`` repeats it.

Two layers are of one kind when they have the same class, parameters of the same names, shapes and dtypes, the same
scalar settings throughout, and the same entry in the config's ``layer_types``. Tracing then takes as long for 48
layers as for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

INDEX_NAMES = {"layer_idx", "layer_id", "layer_index"}
BEGIN, END = 0, 1


@torch.library.custom_op("seqexport::mark", mutates_args=())
def mark(x: Tensor, layer: int, edge: int) -> Tensor:
    """``x``, marked in the graph as what enters (edge 0) or leaves (edge 1) a layer."""
    return x.clone()


@mark.register_fake
def _(x: Tensor, layer: int, edge: int) -> Tensor:
    return torch.empty_like(x)


@dataclass(frozen=True)
class LayerStack:
    """The repeated layers of a model.

    Attributes:
        name: the ModuleList's name in the model.
        layers: its modules.
        kinds: for each layer, the first one of its kind.
    """

    name: str
    layers: list[nn.Module]
    kinds: list[int]

    @property
    def representatives(self) -> list[int]:
        return sorted(set(self.kinds))


def layer_stack(model: PreTrainedModel) -> LayerStack | None:
    """The model's layers, if it holds them in one list and some of them are alike."""
    config = model.config.get_text_config()
    depth = getattr(config, "num_hidden_layers", 0)
    lists = [(n, list(m)) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth > 0]
    if not lists:
        return None
    name, layers = lists[0]
    layer_types = getattr(config, "layer_types", None) or [None] * depth
    signatures = [(_signature(layer), kind) for layer, kind in zip(layers, layer_types, strict=False)]
    kinds = [signatures.index(signature) for signature in signatures]
    return LayerStack(name, layers, kinds) if len(set(kinds)) < len(layers) == len(kinds) else None


def _signature(layer: nn.Module) -> Any:
    tensors = [(name, tuple(t.shape), t.dtype) for name, t in (*layer.named_parameters(), *layer.named_buffers())]
    settings = [(name, type(m), _scalars(m)) for name, m in layer.named_modules()]
    return tensors, settings


def _scalars(module: nn.Module) -> list[tuple[str, Any]]:
    plain = (bool, int, float, str, torch.dtype, tuple, type(None))
    values = {k: v for k, v in vars(module).items() if k not in INDEX_NAMES and isinstance(v, plain)}
    configs = {k: id(v) for k, v in vars(module).items() if k.endswith("config")}
    return sorted((*values.items(), *configs.items()), key=lambda item: item[0])


@contextmanager
def representatives_only(stack: LayerStack) -> Iterator[None]:
    """Mark the edges of one layer of each kind, and let the others hand on what they are given."""
    tuples: dict[int, bool] = {}
    with ExitStack() as undo:
        for index, layer in enumerate(stack.layers):
            if index == stack.kinds[index]:
                for handle in _mark_edges(layer, index, tuples):
                    undo.callback(handle.remove)
            else:
                layer.forward = _hand_on(stack.kinds[index], tuples)
                undo.callback(delattr, layer, "forward")
        yield


def _mark_edges(layer: nn.Module, index: int, tuples: dict[int, bool]) -> list[torch.utils.hooks.RemovableHandle]:
    """Mark what enters and leaves a layer, and note in ``tuples`` whether it returns a tuple."""

    def before(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (mark(args[0], index, BEGIN), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": mark(kwargs["hidden_states"], index, BEGIN)}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        tuples[index] = isinstance(output, tuple)
        if tuples[index]:
            return (mark(output[0], index, END), *output[1:])
        return mark(output, index, END)

    return [layer.register_forward_pre_hook(before, with_kwargs=True), layer.register_forward_hook(after)]


def _hand_on(kind: int, tuples: dict[int, bool]) -> Any:
    """A layer's forward that gives what it is given, in the form of the layer ``kind``, which has run before."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states,) if tuples[kind] else hidden_states

    return forward
