"""Mamba-2's chunks no longer than the text, for short texts.

transformers' own scan fills the last chunk up with zeros, so that 24 tokens cost as much as the 256 of a chunk: 5 GB a
layer of Mamba-2 2.7 B in float64 (5.17). The zeros add nothing, and without them the answers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def short_chunks(model: nn.Module, tokens: int) -> Iterator[None]:
    """Inside, layers with a scan in chunks take ``tokens`` at a time, if that is less than their own chunk."""
    layers: list[tuple[Any, int]] = []
    for layer in model.modules():
        size = getattr(layer, "chunk_size", None)
        if hasattr(layer, "conv1d") and isinstance(size, int):
            layers.append((layer, size))
    try:
        for layer, size in layers:
            layer.chunk_size = min(size, tokens)
        yield
    finally:
        for layer, size in layers:
            layer.chunk_size = size
