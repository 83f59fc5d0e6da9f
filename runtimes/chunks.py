"""A ragged batch of prompts in pieces that a runtime takes, and its logits put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from seqexport.runtimes.base import Lengths, Tokens


@dataclass(frozen=True)
class Chunk:
    """Columns of a batch: tokens [batch, at most the longest piece], and how many of each sequence's are valid."""

    tokens: Tokens
    seq_lens: Lengths


def split(tokens: Tokens, seq_lens: Lengths, longest: int, *, whole: bool) -> list[Chunk]:
    """Cut tokens [batch, L] into pieces of at most ``longest`` columns; without ``whole``, no mere padding."""
    length = tokens.shape[1]
    if not whole and length > 1:
        length = max(1, int(seq_lens.max()))
    if length <= longest:
        return [Chunk(tokens[:, :length], seq_lens)]
    return [
        Chunk(part, np.clip(seq_lens - start, 0, part.shape[1]).astype(np.int32))
        for start in range(0, length, longest)
        for part in [tokens[:, start : min(start + longest, length)]]
    ]


def merge(chunks: Sequence[Chunk], logits: Sequence[NDArray[Any]], *, whole: bool) -> NDArray[Any]:
    """All chunks' logits: those of every column, or each sequence's from the chunk that has its last valid token.

    Returns:
        [batch, L, vocab] with ``whole``, else [batch, 1, vocab].
    """
    if len(logits) == 1:
        return logits[0]
    if whole:
        return np.concatenate(logits, axis=1)
    last = logits[0].copy()
    for chunk, part in zip(chunks[1:], logits[1:], strict=True):
        rows = chunk.seq_lens > 0
        last[rows] = part[rows]
    return last
