"""The patches of this process, by the name of what they replace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

from torch import nn

from seqexport.exporter.standins.packages import is_of_a_package
from seqexport.exporter.states import GraphStates
from seqexport.runtimes.pytorch.attributes import called_function

Patch = Callable[[nn.Module, GraphStates], AbstractContextManager[None]]
"""Called with what is traced and its states; what it changes is changed inside the block that it gives."""

Function = TypeVar("Function", bound=Callable[..., Any])

_patches: dict[str, Patch] = {}
_missing: dict[str, str] = {}


def register(name: str, patch: Patch) -> None:
    """Use a patch in every trace from now on.

    Raises:
        ValueError: there is one of this name; ``unregister`` it first.
    """
    if name in _patches:
        raise ValueError(f"there is a patch of {name} already; unregister({name!r}) first")
    _patches[name] = patch


def unregister(name: str) -> None:
    """Use the patch of this name no more.

    Raises:
        KeyError: there is none.
    """
    del _patches[name]


def replaces(name: str) -> Callable[[Function], Function]:
    """Decorate what is called in place of the function ``name``, which a model's modules look up as a global.

    It takes the states of the traced call (``states.past``, ``states.store``), then what the original is given.
    Functions of that name which mamba_ssm or causal_conv1d brings have other signatures, and are left to
    ``exporter/standins``.
    """

    def decorate(function: Function) -> Function:
        def patch(model: nn.Module, states: GraphStates) -> AbstractContextManager[None]:
            def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
                return original if is_of_a_package(original) else functools.partial(function, states)

            return called_function(model, name, replacement)

        register(name, patch)
        return function

    return decorate


def missing(*names: str, op: str) -> None:
    """A model that calls one of these functions needs an op that is not there yet, and is refused by it.

    A patch of such a name lifts the refusal.
    """
    _missing.update(dict.fromkeys(names, op))


def missing_ops() -> dict[str, str]:
    """The ops that are not there yet, by the function that a model would call."""
    return {name: op for name, op in _missing.items() if name not in _patches}


@contextmanager
def patched(model: nn.Module, states: GraphStates) -> Iterator[None]:
    """Let ``model`` run on our ops and ``states``; afterwards it is as it was."""
    with ExitStack() as stack:
        for patch in list(_patches.values()):
            stack.enter_context(patch(model, states))
        yield
