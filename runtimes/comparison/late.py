"""Caches that hold made-up tokens, so that positions late in the capacity are checked without reading all before them.

Whoever records and whoever verifies makes up the same values, so none of them is in the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqexport.runtimes.base import States
from seqexport.runtimes.manifest import Manifest, StateSpec
from seqexport.runtimes.storage import from_float32, readable

Array = NDArray[Any]

MOST_BYTES = 3 << 28
"""Of made-up caches, in the bundle's dtype; the float64 original holds several times as much. 6,144 tokens of a Mistral
7B in float16."""

NOISE = 65_537
"""Values that are repeated to fill a cache; a prime, so that no two tokens in reach of each other have the same."""

SPACING = 64
"""Of the tokens that have values but zero, beside the first few. So a sum over thousands of tokens is one of few terms:
what is checked is which tokens are seen and from where, not how a runtime adds up (``compare`` does, on real text)."""

FIRST = 8
"""Tokens at the start that have values: a window leaves them behind one by one."""

LARGEST = 3e4
"""Of a made-up value, which float16 must hold."""


def starts(manifest: Manifest, windows: Sequence[int], read: int, length: int) -> tuple[int, ...]:
    """Where texts of ``length`` tokens begin that are checked besides the one that begins at 0.

    One ends with the capacity, or with what is affordable, and one crosses the end of each window.

    Args:
        manifest: of the bundle.
        windows: tokens that a layer with a sliding window sees.
        read: tokens of the text that begins at 0.
        length: of each text.
    """
    if manifest.capacity is None:
        return ()
    room = min(manifest.capacity, MOST_BYTES // (manifest.state_bytes(1, 1) - manifest.state_bytes(1, 0)))
    ends = {room, *(window + length // 2 for window in windows)}
    return tuple(sorted(end - length for end in ends if max(read, length) < end <= room))


def made_up(manifest: Manifest, like: Mapping[str, Array], tokens: int) -> States:
    """States of one sequence of so many tokens, exact in their dtypes.

    Args:
        manifest: of the bundle.
        like: real states [1, ...] by name: the caches' values are as large, states of fixed size are taken over.
        tokens: in the caches.
    """
    noise = np.random.RandomState(0).standard_normal(NOISE).astype(np.float32)  # whose numbers never change
    return {
        spec.past_name: _rounded(
            _cache(spec, np.roll(noise, 7919 * place), like[spec.past_name], tokens)
            if spec.grows
            else like[spec.past_name],
            spec.dtype,
        )
        for place, spec in enumerate(manifest.states)
    }


def _cache(spec: StateSpec, noise: Array, like: Array, tokens: int) -> Array:
    """float32 [1, H, tokens, D], as large as ``like``; the few values that are not zero make up for the others."""
    cache = np.resize(noise, spec.sizes(1, tokens)) * np.sqrt(np.mean(np.square(like))).astype(np.float32)
    if spec.kind == "value":
        place = np.arange(tokens)
        cache *= np.where((place < FIRST) | (place % SPACING == 0), np.float32(SPACING**0.5), 0)[:, None]
    return np.clip(cache, -LARGEST, LARGEST)


def _rounded(values: Array, dtype: str) -> Array:
    return readable(from_float32(values.astype(np.float32), dtype), dtype)
