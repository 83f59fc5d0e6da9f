"""Rotary embeddings that change with the length (longrope, dynamic) keep their frequencies for short texts.

A cache holds keys that were turned with the old frequencies, so no graph can follow the switch exactly;
``models.position_limit`` keeps a cache below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from seqexport.exporter.patches.registry import register
from seqexport.exporter.states import GraphStates
from seqexport.runtimes.pytorch.attributes import attribute


@contextmanager
def short_frequencies(model: nn.Module, states: GraphStates) -> Iterator[None]:
    with ExitStack() as stack:
        for module in switching(model):
            for name, original in list(module.named_buffers(recurse=False)):
                if name.endswith("original_inv_freq"):
                    used = name.replace("original_inv_freq", "inv_freq")
                    stack.callback(setattr, module, used, getattr(module, used))
                    setattr(module, used, original)
            stack.enter_context(attribute(module, "rope_type", _fixed(module.rope_type)))
        yield


register("rotary", short_frequencies)


def switching(model: nn.Module) -> list[Any]:
    """The rotary embeddings of ``model`` that change their frequencies with the length."""
    return [m for m in model.modules() if _fixed(getattr(m, "rope_type", "")) != getattr(m, "rope_type", "")]


def switch_length(module: Any) -> int:
    """The tokens up to which a switching rotary embedding keeps the frequencies of short texts."""
    parameters = module.config.rope_parameters
    kinds = [parameters] if "rope_type" in parameters else list(parameters.values())
    longrope = [kind for kind in kinds if kind["rope_type"] == "longrope"]
    lengths = [int(kind["original_max_position_embeddings"]) for kind in longrope]
    return min(lengths, default=int(module.original_max_seq_len))


def _fixed(rope_type: Any) -> Any:
    if isinstance(rope_type, dict):
        return {layer: _fixed(kind) for layer, kind in rope_type.items()}
    return "default" if rope_type == "longrope" or "dynamic" in str(rope_type) else rope_type
