"""Deep models repeat their layers: one layer of each kind is traced, and ``passes/repeat_layers.py`` repeats it.

Two layers of a language model are of one kind when they have the same class, parameters of the same names, shapes and
dtypes, the same scalar settings throughout, and the same entry in the config's ``layer_types``; ``repeated_parts.py``
says it of any module. Tracing then takes as long for 48 layers as for one. Where anything speaks against it, the model
is traced whole: that costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from onnx.defs import OpSchema
from onnxscript import values as onnxscript_values
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from transformers import PreTrainedModel

from seqexport.plugins.ops.op import DOMAIN, TYPES, VERSION
from seqexport.runtimes.pytorch.attributes import attribute

INDEX_NAMES = {"layer_idx", "layer_id", "layer_index"}
BEGIN, END = 0, 1


@torch.library.custom_op("seqexport::mark", mutates_args=())
def mark(x: Tensor, layer: int, edge: int) -> Tensor:
    """``x``, marked in the graph as what enters (edge 0) or leaves (edge 1) a layer."""
    return x.clone()


@mark.register_fake
def _(x: Tensor, layer: int, edge: int) -> Tensor:
    return torch.empty_like(x)


MARK = torch.ops.seqexport.mark.default


def translate_mark(x: Any, layer: int, edge: int) -> Any:
    """The ONNX node for a call of ``mark``."""
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


class CannotRepeat(Exception):
    """The layers cannot be strung together from copies; the model has to be traced whole."""


@dataclass(frozen=True)
class LayerStack:
    """The repeated layers of a model.

    Attributes:
        names: what the graph's names of each layer's parameters begin with, but for the dot.
        layers: the modules.
        kinds: for each layer, the first one of its kind.
        alone: whether a layer must read no values but its hidden state's and its own parameters', and those of one kind
            are given hidden states of one form.
    """

    names: list[str]
    layers: list[nn.Module]
    kinds: list[int]
    alone: bool = False

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
    names = [f"model.{name}.{index}" for index in range(len(layers))]
    return LayerStack(names, layers, kinds) if len(set(kinds)) < len(layers) == len(kinds) else None


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
    """Mark the edges of every layer, and let all but one of each kind hand on what they are given.

    Raises:
        CannotRepeat: a layer gives more than a hidden state, is given something else than its kind's first one, or was
            not called.
    """
    calls: dict[int, LayerCall] = {}
    with ExitStack() as undo:
        for index, (layer, kind) in enumerate(zip(stack.layers, stack.kinds, strict=True)):
            if index == kind:
                for handle in _mark_edges(layer, index, calls):
                    undo.callback(handle.remove)
            else:
                undo.enter_context(attribute(layer, "forward", _hand_on(index, kind, calls, stack.alone)))
        yield
        if missing := set(range(len(stack.layers))) - calls.keys():
            raise CannotRepeat(f"layer {min(missing)} is not called")


@dataclass
class LayerCall:
    """How a model calls a layer.

    Attributes:
        place: where the hidden state stands among the arguments: its position or its keyword.
        form: dtype and sizes of the hidden state.
        rest: the other arguments, flattened, and their form.
        tuple_of: members of the tuple that it returned, all None but the first; None where it was no tuple.
    """

    place: int | str
    form: str
    rest: tuple[Any, ...]
    tuple_of: int | None = None

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall:
        """The hidden state is the first floating-point tensor."""
        given: dict[int | str, Any] = dict(enumerate(args))
        given.update(kwargs.items())
        for place, value in given.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                rest = tree_flatten({key: value for key, value in given.items() if key != place})
                return cls(place, form_of(value), rest)
        raise CannotRepeat("a layer is given no hidden state")

    def has_rest_of(self, other: LayerCall) -> bool:
        """Whether all but the hidden state is the same: the same tensors, and equal values of other kinds."""
        (ours, form), (theirs, expected) = self.rest, other.rest
        return (self.place, form) == (other.place, expected) and all(map(_is_same, ours, theirs))


def form_of(x: Tensor) -> str:
    """Dtype and sizes, where sizes may be symbols."""
    return f"{x.dtype} {[str(size) for size in x.shape]}"


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b))


def _mark_edges(layer: nn.Module, index: int, calls: dict[int, LayerCall]) -> list[torch.utils.hooks.RemovableHandle]:
    def before(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call = calls[index] = LayerCall.of(args, kwargs)
        if isinstance(call.place, str):
            return args, {**kwargs, call.place: mark(kwargs[call.place], index, BEGIN)}
        marked = mark(args[call.place], index, BEGIN)
        return (*args[: call.place], marked, *args[call.place + 1 :]), kwargs

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return mark(output, index, END)
        if type(output) is not tuple or not isinstance(output[0], Tensor) or any(x is not None for x in output[1:]):
            raise CannotRepeat(f"layer {index} gives more than a hidden state")
        calls[index].tuple_of = len(output)
        return (mark(output[0], index, END), *output[1:])

    return [layer.register_forward_pre_hook(before, with_kwargs=True), layer.register_forward_hook(after)]


def _hand_on(index: int, kind: int, calls: dict[int, LayerCall], one_form: bool) -> Callable[..., Any]:
    """A layer's forward that gives what it is given, in the form of the layer ``kind``, which has run before.

    ``one_form``: both must be given the same sizes, whatever they are.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        call = calls[index] = LayerCall.of(args, kwargs)
        if kind not in calls or not call.has_rest_of(calls[kind]) or (one_form and call.form != calls[kind].form):
            raise CannotRepeat(f"layer {index} is not given what layer {kind} is")
        hidden = kwargs[call.place] if isinstance(call.place, str) else args[call.place]
        handed = mark(mark(hidden, index, BEGIN), index, END)
        members = calls[kind].tuple_of
        return handed if members is None else (handed, *[None] * (members - 1))

    return forward
