"""Which parts of any module repeat each other, so that one of each kind is traced (see ``layers.py``).

1. A part has parts itself, is called once, with one tensor and otherwise plain values, and gives one tensor of the same
   form.
2. Two parts are of one kind when all of them is alike but the values of their parameters and buffers: classes, names,
   shapes and dtypes, every setting, and how they are called. Settings other than numbers, texts, dtypes and collections
   of these are alike where they are the same object, and tensors that are no buffers never are.
3. Of parts inside each other the outermost is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from seqexport.exporter.layers import CannotRepeat, LayerCall, LayerStack, form_of

OWN = {"_parameters", "_buffers", "_modules", "training"}
PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, type(None))


def repeated_parts(module: nn.Module, run: Callable[[], object]) -> LayerStack | None:
    """The parts that are repeated, in the order of their calls; None where none are.

    Args:
        run: calls the module once, on tensors that need have no values.
    """
    calls = _calls(module, run)
    parts = {name: (_signature(module.get_submodule(name)), call) for name, call in calls.items()}
    all_kinds = _kinds(parts)
    repeated = {name for name, kind in all_kinds.items() if _size(all_kinds, kind) > 1}
    outermost = {name: part for name, part in parts.items() if not any(name.startswith(f"{n}.") for n in repeated)}
    found = _kinds(outermost)
    names = [name for name, kind in found.items() if _size(found, kind) > 1]
    if not names:
        return None
    kinds = [names.index(found[name]) for name in names]
    return LayerStack(names, [module.get_submodule(name) for name in names], kinds, alone=True)


def _calls(module: nn.Module, run: Callable[[], object]) -> dict[str, LayerCall]:  # 1
    """How the parts are called that may be repeated, in the order of the calls."""
    calls: dict[str, LayerCall | None] = {}

    def before(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls[name] = None if name in calls else _plain_call(args, kwargs)

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            call = calls[name]
            if call is not None and (not isinstance(output, Tensor) or form_of(output) != call.form):
                calls[name] = None

        return hook

    with ExitStack() as undo:
        for name, part in module.named_modules():
            if name and any(True for _ in part.children()):
                undo.callback(part.register_forward_pre_hook(before(name), with_kwargs=True).remove)
                undo.callback(part.register_forward_hook(after(name)).remove)
        run()
    return {name: call for name, call in calls.items() if call is not None}


def _plain_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall | None:
    try:
        call = LayerCall.of(args, kwargs)
    except CannotRepeat:
        return None
    return call if all(isinstance(value, PLAIN) for value in tree_leaves(call.rest[0])) else None


def _kinds(parts: Mapping[str, tuple[Any, LayerCall]]) -> dict[str, str]:
    """For each part, the first one of its kind."""
    kinds: dict[str, str] = {}
    for name, (signature, call) in parts.items():
        first = (kind for kind in dict.fromkeys(kinds.values()) if parts[kind][0] == signature)
        kinds[name] = next((kind for kind in first if _alike(call, parts[kind][1])), name)
    return kinds


def _alike(call: LayerCall, other: LayerCall) -> bool:
    return call.form == other.form and call.has_rest_of(other)


def _size(kinds: Mapping[str, str], kind: str) -> int:
    return sum(each == kind for each in kinds.values())


def _signature(part: nn.Module) -> Any:  # 2
    tensors = [
        (name, tuple(x.shape), x.dtype)
        for name, x in (*part.named_parameters(remove_duplicate=False), *part.named_buffers(remove_duplicate=False))
    ]
    parts = part.named_modules(remove_duplicate=False)
    return tensors, [
        (name, type(m), _setting({key: value for key, value in vars(m).items() if key not in OWN})) for name, m in parts
    ]


def _setting(value: Any) -> Any:
    """What two equal settings have in common, and others have not."""
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, Mapping):
        return type(value), [(_setting(key), _setting(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [_setting(each) for each in value]
    if isinstance(value, set | frozenset) and not value:
        return type(value), []
    return object() if isinstance(value, Tensor) else id(value)
