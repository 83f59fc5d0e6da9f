"""Rotary embeddings whose frequencies depend on the length so far (longrope, dynamic) keep those of short texts.

A cache holds keys that were turned with the old frequencies, so no graph can follow the switch exactly;
``models.position_limit`` keeps a cache below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from torch import nn

from seqexport.exporter.states import GraphStates


@contextmanager
def hook(model: nn.Module, states: GraphStates) -> Iterator[None]:
    with ExitStack() as stack:
        for module in switching(model):
            for name, original in list(module.named_buffers(recurse=False)):
                if name.endswith("original_inv_freq"):
                    used = name.replace("original_inv_freq", "inv_freq")
                    stack.callback(setattr, module, used, getattr(module, used))
                    setattr(module, used, original)
            stack.enter_context(patch.object(module, "rope_type", _fixed(module.rope_type)))
        yield


def switching(model: nn.Module) -> list[nn.Module]:
    """The rotary embeddings of ``model`` that change their frequencies with the length."""
    return [m for m in model.modules() if _fixed(getattr(m, "rope_type", "")) != getattr(m, "rope_type", "")]


def _fixed(rope_type: str | dict[str, str]) -> str | dict[str, str]:
    if isinstance(rope_type, dict):
        return {layer: str(_fixed(kind)) for layer, kind in rope_type.items()}
    return "default" if rope_type == "longrope" or "dynamic" in rope_type else rope_type
