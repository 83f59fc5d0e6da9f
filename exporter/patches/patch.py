"""Replaces functions that a model's modules look up by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import nn


def modules_defining(model: nn.Module, name: str) -> list[Any]:
    """The Python modules in which classes of ``model`` are defined and that have a global ``name``."""
    homes = {type(module).__module__ for module in model.modules()}
    return [sys.modules[home] for home in sorted(homes) if hasattr(sys.modules[home], name)]


@contextmanager
def replaced(model: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Let ``name`` mean ``function`` in every Python module that ``model`` is made of."""
    patches = [patch.object(home, name, function) for home in modules_defining(model, name)]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in reversed(patches):
            each.stop()
