"""How a next token is chosen from logits: the same tokens here and in C++ (runtimes/cpp/runtime/sampling.cpp).

Random numbers are SplitMix64's (Steele, Lea & Flood 2014), one generator a sequence, each a single uint64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError

Generators = NDArray[np.uint64]
SEEDS = range(2**64)

WIDTHS = (2.0, 4.0, 8.0, 16.0, np.inf)
"""How far below the largest logit, in temperatures, tokens are put in order; further where these are not enough."""


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
        if self.seed not in SEEDS:
            raise UserError(f"`seed` {self.seed}: expected 0 to 2^64 - 1")

    def generators(self, batch: int) -> Generators:
        """Those of a batch, before they gave a number."""
        return np.full(batch, _mixed(self.seed), np.uint64)

    def choose(self, logits: NDArray[np.floating], generators: Generators, row: int) -> int:
        """One token from the logits [vocab] of a sequence, whose generator moves on unless the likeliest is taken."""
        if self.temperature == 0:
            return int(logits.argmax())
        uniform = _uniform(generators, row)
        if 0 < self.top_k < len(logits):
            order = _likeliest(logits, self.top_k)
            reached = np.cumsum(self._weights(logits[order], logits[order[0]]))
            return self._drawn(order, reached, reached[-1], uniform)
        weights = self._weights(logits, logits.max())
        reached = np.cumsum(weights)
        if self.top_p == 1:
            return min(int(np.searchsorted(reached, uniform * reached[-1], side="right")), len(logits) - 1)
        return self._among_likeliest(logits, weights, reached[-1], uniform)

    def _weights(self, logits: NDArray[np.floating], largest: np.floating) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):  # -inf, whose weight is 0
            return np.exp((logits.astype(np.float64) - largest) / self.temperature)

    def _among_likeliest(
        self, logits: NDArray[np.floating], weights: NDArray[np.float64], total: np.float64, uniform: float
    ) -> int:
        """Those that reach ``top_p``: so many are put in order as that takes, a few with most logits."""
        for width in WIDTHS:
            among = np.flatnonzero(logits >= logits.max() - width * self.temperature)
            order = among[np.argsort(-logits[among], kind="stable")]
            reached = np.cumsum(weights[order])
            if reached[-1] >= self.top_p * total:
                break
        return self._drawn(order, reached, total, uniform)

    def _drawn(self, order: NDArray[np.intp], reached: NDArray[np.float64], total: np.float64, uniform: float) -> int:
        """Of tokens [n], whose weights sum up to ``reached``, one of the first that have ``top_p`` of ``total``."""
        last = min(int(np.searchsorted(reached, self.top_p * total)), len(order) - 1)
        return int(order[np.searchsorted(reached[:last], uniform * reached[last], side="right")])


def _likeliest(logits: NDArray[np.floating], count: int) -> NDArray[np.intp]:
    """Indices [count] of the largest of logits [vocab], these first, equals as they stand."""
    least = np.partition(logits, -count)[-count]
    among = np.flatnonzero(logits >= least)
    return among[np.argsort(-logits[among], kind="stable")][:count]


def _uniform(generators: Generators, row: int) -> float:
    """The next number of a sequence's generator: at least 0, below 1, of 53 bits."""
    state = (int(generators[row]) + 0x9E3779B97F4A7C15) % 2**64
    generators[row] = state
    return (_mixed(state) >> 11) * 2.0**-53


def _mixed(state: int) -> int:
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31
