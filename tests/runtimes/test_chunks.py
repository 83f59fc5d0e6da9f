"""Prompts in pieces: every token once, and no columns of padding alone."""

from __future__ import annotations

import numpy as np
import pytest

from seqexport.runtimes.chunks import merge, split
from tests.runtimes.test_trt import lens, tokens


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("longest", [1, 3, 4, 12, 50])
def test_chunks_hold_every_token_once_and_logits_come_from_the_last(longest: int, whole: bool) -> None:
    given, valid = tokens(4, 12), lens(12, 7, 0, 3)
    chunks = split(given, valid, longest, whole=whole)
    assert all(1 <= chunk.tokens.shape[1] <= longest for chunk in chunks)
    np.testing.assert_array_equal(sum(chunk.seq_lens for chunk in chunks), valid)
    for row, n in enumerate(valid):
        fed = [chunk.tokens[row, : chunk.seq_lens[row]] for chunk in chunks]
        np.testing.assert_array_equal(np.concatenate(fed), given[row, :n])
    if whole:
        logits = [chunk.tokens[..., None].astype(np.float32) for chunk in chunks]
        np.testing.assert_array_equal(merge(chunks, logits, whole=True)[..., 0], given)
        return
    logits = [
        np.array([[[c.tokens[row, max(n - 1, 0)]]] for row, n in enumerate(c.seq_lens)], np.float32) for c in chunks
    ]
    merged = merge(chunks, logits, whole=False)
    for row, n in enumerate(valid):
        if n:
            assert merged[row, 0, 0] == given[row, n - 1]


def test_columns_of_padding_alone_are_not_run() -> None:
    assert len(split(tokens(2, 30), lens(3, 4), 4, whole=False)) == 1
    assert len(split(tokens(2, 30), lens(0, 0), 4, whole=False)) == 1
