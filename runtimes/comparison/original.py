"""The PyTorch original of a bundle, opened as a comparison needs it, on as many threads as suit it best."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.comparison.accuracy import Original
from seqexport.runtimes.pytorch.runner import TorchRunner

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMALL = 10_000_000
"""Parameters below which a second thread waits more than it works."""

PROBE, CLEARLY = 64, 1.3
"""Tokens of a trial prompt, and how much slower all threads must be before one is taken."""


def fastest_threads(bundle: Bundle, model: PreTrainedModel) -> int:
    """One thread or all of them: what suits a model best, so that PyTorch is timed at its best."""
    most = torch.get_num_threads()
    taken = {threads: _probe(bundle, model, threads) for threads in (1, most)}
    return most if taken[most] < CLEARLY * taken[1] else 1


def _probe(bundle: Bundle, model: PreTrainedModel, threads: int) -> float:
    """Seconds of a short prompt and two steps."""
    times = []
    with TorchRunner(bundle, model, threads=threads) as runner:
        for _ in range(2):
            with runner.session(capacity=PROBE + 2) as session:
                start = perf_counter()
                session.prefill(np.zeros((1, PROBE), np.int64))
                session.step(np.zeros(1, np.int64))
                session.step(np.zeros(1, np.int64))
                times.append(perf_counter() - start)
    return min(times)


def reference_runners(load: Callable[[Bundle], PreTrainedModel]) -> Original:
    """The original as the reference of accuracy; ``load`` is called for each of its runners."""

    def threads(bundle: Bundle) -> int | None:
        return 1 if bundle.manifest.source.parameters < SMALL else None

    return Original(
        native=lambda bundle: TorchRunner(bundle, load(bundle), threads=threads(bundle)),
        whole=lambda bundle: TorchRunner(bundle, load(bundle), threads=threads(bundle), logits="all"),
        float64=lambda bundle: TorchRunner(
            bundle, load(bundle), threads=threads(bundle), arithmetic="float64", logits="all"
        ),
    )
