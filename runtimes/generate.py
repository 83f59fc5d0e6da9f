"""Text from a bundle: several prompts of different length as one ragged batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Floats, Lengths, Runner, Tokens
from seqexport.runtimes.finite import ADVICE, not_finite


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the logits.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_k: choose among the k likeliest; 0: all.
        top_p: choose among the likeliest that together reach this probability.
        seed: of a generator that each sequence has for itself, so that a batch gives what each alone does.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < np.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"`temperature` {self.temperature}, `top_k` {self.top_k}, `top_p` {self.top_p}: "
                "expected `temperature` >= 0, `top_k` >= 0, 0 < `top_p` <= 1"
            )

    def choose(self, logits: NDArray[np.floating], rng: np.random.Generator) -> int:
        """One token from logits [vocab]."""
        if self.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")
        order = order[: self.top_k] if self.top_k else order
        weights = np.exp((logits[order].astype(np.float64) - logits[order[0]]) / self.temperature)
        probabilities = weights / weights.sum()
        kept = int(np.searchsorted(np.cumsum(probabilities), self.top_p)) + 1
        probabilities = probabilities[:kept] / probabilities[:kept].sum()
        return int(order[rng.choice(len(probabilities), p=probabilities)])


def generate(
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 128,
    sampling: Sampling = Sampling(),
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
    runner: Runner, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, sampling: Sampling
) -> Iterator[tuple[int, int]]:
    """What ``generate`` gives, as it is chosen: each token with the index of its prompt."""
    if max_new_tokens < 1:
        raise UserError(f"`max_new_tokens` {max_new_tokens}: expected at least 1")
    tokens, lengths = pad(prompts)
    return _continued(runner, tokens, lengths, max_new_tokens, sampling)


def _continued(
    runner: Runner, tokens: Tokens, lengths: Lengths, max_new_tokens: int, sampling: Sampling
) -> Iterator[tuple[int, int]]:
    with runner.session(len(lengths), _capacity(runner, int(lengths.max()), max_new_tokens)) as session:
        logits = _last(session.prefill(tokens, lengths), lengths)
        rngs = [np.random.default_rng(sampling.seed) for _ in lengths]
        alive = np.ones(len(lengths), bool)
        for made in range(1, max_new_tokens + 1):
            chosen = np.zeros(len(lengths), np.int64)
            for row in np.flatnonzero(alive):
                check_logits(runner, logits[row], f"prompt {row + 1} after {session.lengths[row]} tokens")
                token = sampling.choose(logits[row], rngs[row])
                alive[row] = token not in runner.manifest.eos_token_ids
                if alive[row]:
                    chosen[row] = token
                    yield int(row), token
            if runner.manifest.capacity is not None:
                alive &= session.lengths < session.capacity
            if not alive.any() or made == max_new_tokens:
                return
            logits = session.prefill(chosen[:, None], alive.astype(np.int32))[:, -1]


def _capacity(runner: Runner, longest: int, max_new_tokens: int) -> int:
    """Tokens that a session must hold: the longest prompt and what comes after it, as far as the bundle allows."""
    limit, wanted = runner.manifest.capacity, longest + max_new_tokens
    return wanted if limit is None else max(min(wanted, limit), longest)


def check_logits(runner: Runner, logits: Floats, where: str) -> None:
    """Refuse logits that are not finite: no choice among them means anything.

    Raises:
        UserError: how many values, and what may help.
    """
    if told := not_finite(logits):
        dtype = runner.manifest.dtype
        raise UserError(f"the logits of {where} are not finite on {runner.backend} in {dtype}: {told}; {ADVICE[dtype]}")


def pad(prompts: Sequence[Sequence[int]]) -> tuple[Tokens, Lengths]:
    """Right-padded int64 [B, longest], and int32 [B] lengths."""
    if not prompts or not all(prompts):
        raise UserError("the prompt is empty: give at least one token of text")
    lengths = np.array([len(p) for p in prompts], np.int32)
    tokens = np.zeros((len(prompts), lengths.max()), np.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, lengths


def _last(logits: Floats, lengths: Lengths) -> Floats:
    if logits.shape[1] == 1:
        return logits[:, 0]
    rows: Floats = logits[np.arange(len(lengths)), lengths - 1]
    return rows
