"""Attributes that are something else for a while."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

Function = Callable[..., Any]


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner.name`` is ``value`` inside the block. Afterwards it is what it was: the owner's own, or its class's."""
    was_own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if was_own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def called_function(model: nn.Module, name: str, replacement: Callable[[Function], Function]) -> Iterator[None]:
    """What ``model`` calls by the global name ``name`` is another function inside the block.

    Args:
        replacement: given the function that a Python module of the model's classes has by that name, what to call.
    """
    homes = {type(module).__module__ for module in model.modules()}
    with ExitStack() as stack:
        for home in sorted(homes):
            if original := getattr(sys.modules[home], name, None):
                stack.enter_context(attribute(sys.modules[home], name, replacement(original)))
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` and all its parts are in evaluation mode inside the block; afterwards each is in its own again."""
    training = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, was in training:
            each.training = was
