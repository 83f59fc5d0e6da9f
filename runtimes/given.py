"""What a caller gives a session, checked before anything is changed: whole numbers as they are, shapes, and bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import StateSpec

MOST_TOKENS = 2**31 - 1
"""Of a sequence, as lengths are counted."""


def given_tokens(tokens: ArrayLike, batch: int, vocab_size: int) -> NDArray[np.int64]:
    """Tokens as int64[batch, L], L at least 1.

    Raises:
        UserError: they are no whole numbers, of another shape, or outside the vocabulary.
    """
    array = _whole_numbers("tokens", tokens)
    if array.ndim != 2 or array.shape[0] != batch or array.shape[1] == 0:
        raise UserError(f"tokens of shape {array.shape}: expected [{batch}, at least 1]; the prompt is empty")
    if array.min() < 0 or array.max() >= vocab_size:
        bad = array[(array < 0) | (array >= vocab_size)][0]
        raise UserError(f"token {bad}: outside the vocabulary of {vocab_size}")
    return np.ascontiguousarray(array, np.int64)


def given_counts(name: str, counts: ArrayLike, batch: int, most: int) -> NDArray[np.int32]:
    """Numbers of tokens as int32[batch], each from 0 to ``most``.

    Raises:
        UserError: they are no whole numbers, or others.
    """
    array = _whole_numbers(name, counts)
    if array.shape != (batch,) or array.min() < 0 or array.max() > most:
        raise UserError(f"{name} {array.tolist()}: expected {batch} values from 0 to {most}")
    return array.astype(np.int32)


def given_states(
    specs: Sequence[StateSpec], states: Mapping[str, ArrayLike], lengths: NDArray[np.int32]
) -> dict[str, NDArray[np.floating]]:
    """Every state by its name; a cache has at least as many rows as the longest of ``lengths``.

    Raises:
        UserError: one is missing, unknown, no floats, or of another shape.
    """
    names = {spec.past_name for spec in specs}
    if others := names ^ states.keys():
        raise UserError(f"state {min(others)!r} is missing or unknown; the states are {', '.join(sorted(names))}")
    return {spec.past_name: _state(spec, np.asarray(states[spec.past_name]), lengths) for spec in specs}


def _state(spec: StateSpec, array: NDArray[Any], lengths: NDArray[np.int32]) -> NDArray[np.floating]:
    longest = int(lengths.max())
    rows = array.shape[2] if spec.grows and array.ndim > 2 else longest
    expected = spec.sizes(len(lengths), rows)
    if array.shape != expected or rows < longest:
        wanted = f"{list(spec.sizes(len(lengths), longest))}{', or more rows' if spec.grows else ''}"
        raise UserError(f"{spec.past_name} of shape {list(array.shape)}: expected {wanted}")
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise UserError(f"{spec.past_name} is {array.dtype}: expected floats")
    return array


def _whole_numbers(name: str, given: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise UserError(f"{name}: expected an array ({error})") from error
    if array.dtype.kind not in "iu" and array.size:
        raise UserError(f"{name} are {array.dtype}: expected whole numbers")
    return array
