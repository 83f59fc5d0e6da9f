"""How whole calls are timed, in PyTorch and in engines alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqexport.runtimes.base import Runner, Tokens
from seqexport.runtimes.benchmarks.sizes import ANSWERS, PROMPT, SAMPLE


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median of a call that ends on the host."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return statistics.median(times)


def prefill_seconds(runner: Runner, tokens: Tokens, repeats: int) -> float:
    """Median of a prompt [1, L] into empty states, in one session, after one that is not counted."""
    times = []
    with runner.session(1, tokens.shape[1]) as session:
        empty = session.read_states()
        for _ in range(repeats + 1):
            session.write_states(empty, np.zeros(1, np.int32))
            times.append(seconds(lambda: session.prefill(tokens), 1))
    return statistics.median(times[1:])


def random_prompt(vocab_size: int) -> Tokens:
    """int64 [1, PROMPT]: what every runtime reads."""
    return np.random.default_rng(0).integers(0, vocab_size, (1, PROMPT))


def answers(step: Callable[[Tokens], NDArray[np.floating]], tokens: Tokens) -> dict[str, list[Any]]:
    """What a model says to the first ANSWERS of tokens [1, L], one by one: the likeliest next tokens, and a part of all
    its logits.

    Args:
        step: tokens [1, 1] to logits [1, vocab].
    """
    logits = [step(tokens[:, i : i + 1])[0] for i in range(ANSWERS)]
    return {"likeliest": [int(row.argmax()) for row in logits], "logits": [row[:SAMPLE].tolist() for row in logits]}
