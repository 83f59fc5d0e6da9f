"""Which implementation of transformers' experts interface a model uses; ``eager`` runs in every dtype, float64 too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from seqexport.runtimes.pytorch.attributes import attribute

IMPLEMENTATION = "_experts_implementation_internal"
"""Where a configuration keeps the name."""


def goes_through_interface(module: nn.Module) -> bool:
    """Whether it is a mixture's experts that transformers' interface calls."""
    return hasattr(module, "is_concatenated")


@contextmanager
def experts_implementation(model: nn.Module, name: str) -> Iterator[None]:
    """Let the model compute its experts by the implementation ``name``, inside the block."""
    modules: list[Any] = [module for module in model.modules() if goes_through_interface(module)]
    configs = {id(module.config): module.config for module in modules}
    with ExitStack() as stack:
        for config in configs.values():
            stack.enter_context(attribute(config, IMPLEMENTATION, name))
        yield
