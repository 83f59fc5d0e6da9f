"""Text from a bundle: several prompts of different length as one ragged batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Lengths, Runner, Tokens
from seqexport.runtimes.sampling import Sampling


def generate(
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """Continue each prompt until it ends, or ``max_new_tokens`` came, or the bundle's capacity is full.

    Returns:
        The new tokens of each prompt; an end-of-text token is not among them.

    Raises:
        UserError: a prompt is empty, has tokens outside the vocabulary, or is longer than the capacity; or the model
            gives logits that are not finite.
    """
    made: list[list[int]] = [[] for _ in prompts]
    for row, token in new_tokens(runner, prompts, max_new_tokens=max_new_tokens, sampling=sampling):
        made[row].append(token)
    return made


def new_tokens(
    runner: Runner, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, sampling: Sampling | None
) -> Iterator[tuple[int, int]]:
    """What ``generate`` gives, as it is chosen: each token with the index of its prompt."""
    if max_new_tokens < 1:
        raise UserError(f"`max_new_tokens` {max_new_tokens}: expected at least 1")
    tokens, lengths = pad(prompts)
    return _continued(runner, tokens, lengths, max_new_tokens, sampling)


def _continued(
    runner: Runner, tokens: Tokens, lengths: Lengths, max_new_tokens: int, sampling: Sampling | None
) -> Iterator[tuple[int, int]]:
    with runner.session(len(lengths), _capacity(runner, int(lengths.max()), max_new_tokens)) as session:
        session.prefill(tokens, lengths)
        for chosen in session.generate(max_new_tokens, sampling, read_last=False):
            yield from ((row, int(token)) for row, token in enumerate(chosen) if token >= 0)


def _capacity(runner: Runner, longest: int, max_new_tokens: int) -> int:
    """Tokens that a session must hold: the longest prompt and what comes after it, as far as the bundle allows."""
    limit, wanted = runner.manifest.capacity, longest + max_new_tokens
    return wanted if limit is None else max(min(wanted, limit), longest)


def pad(prompts: Sequence[Sequence[int]]) -> tuple[Tokens, Lengths]:
    """Right-padded int64 [B, longest], and int32 [B] lengths."""
    if not prompts or not all(prompts):
        raise UserError("the prompt is empty: give at least one token of text")
    lengths = np.array([len(p) for p in prompts], np.int32)
    tokens = np.zeros((len(prompts), lengths.max()), np.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, lengths
