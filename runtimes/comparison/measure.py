"""Speed and memory of a Runner, whatever it runs on: time to first token, decode speed, bytes of state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Protocol, runtime_checkable

import numpy as np
import psutil

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner, Session, Tokens
from seqexport.runtimes.finite import check_logits
from seqexport.runtimes.manifest import ITEM_BYTES, Record

SAMPLE_SECONDS = 0.002


class SpeedOptions(Record, frozen=True):
    """What to time.

    Attributes:
        lengths: tokens of the prompt, ascending.
        batches: numbers of sequences.
        steps: decode steps timed after each prompt, at most.
        repeats: timed prefills of each size, at most; one untimed run comes first.
        budget_seconds: for all sizes of one runner; what would not fit is skipped, and its record says so.
    """

    lengths: tuple[int, ...] = (128, 512, 1024, 2048, 4096, 8192)
    batches: tuple[int, ...] = (1, 4)
    steps: int = 32
    repeats: int = 5
    budget_seconds: float = 120.0


class Point(Record, frozen=True):
    """One size.

    Attributes:
        batch, length: sequences, and tokens of each one's prompt.
        prefill_seconds: from the prompts to the logits of the next tokens; median of ``repeats``.
        decode_seconds: one step of the batch after the prompt; median of ``steps``.
        state_bytes: of the states that the session gave back after the prompt, in the manifest's dtypes.
        host_bytes: most memory of this process above what it held before the first size.
        device_bytes: most memory on the device, where the runner can tell.
        skipped: why there are no numbers.
    """

    batch: int
    length: int
    prefill_seconds: float | None = None
    repeats: int = 0
    decode_seconds: float | None = None
    steps: int = 0
    state_bytes: int | None = None
    host_bytes: int | None = None
    device_bytes: int | None = None
    skipped: str | None = None

    @property
    def prefill_tokens_per_second(self) -> float | None:
        return self.batch * self.length / self.prefill_seconds if self.prefill_seconds else None

    @property
    def decode_tokens_per_second(self) -> float | None:
        return self.batch / self.decode_seconds if self.decode_seconds else None


@runtime_checkable
class TellsDeviceMemory(Protocol):
    """A runner that knows how much device memory it used."""

    def reset_peak_device_memory(self) -> None: ...

    def peak_device_memory(self) -> int | None:
        """Bytes at most in use since the reset; None where there is no device."""
        ...


def measure(
    runner: Runner, options: SpeedOptions, progress: Callable[[str], None] = lambda what: None
) -> tuple[Point, ...]:
    """Time every size that the budget allows, the smallest first."""
    return _Measurement(runner, options, progress).points()


class _Measurement:
    def __init__(self, runner: Runner, options: SpeedOptions, progress: Callable[[str], None]) -> None:
        self.runner, self.options, self.progress = runner, options, progress
        self.sizes = [(batch, length) for length in options.lengths for batch in options.batches]
        self.random = np.random.default_rng(0)
        self.resident = psutil.Process().memory_info().rss
        self.start = perf_counter()
        self.share = options.budget_seconds / max(1, len(self.sizes))
        self.seconds_per_token = 0.0

    def points(self) -> tuple[Point, ...]:
        return tuple(self._point(batch, length) for batch, length in self.sizes)

    def _point(self, batch: int, length: int) -> Point:
        reason = self._reason_to_skip(batch, length)
        if reason is None:
            self.progress(f"batch {batch}, {length} tokens")
            try:
                return self._timed(batch, length)
            except UserError as error:
                reason = str(error)
        return Point(batch, length, skipped=reason)

    def _reason_to_skip(self, batch: int, length: int) -> str | None:
        capacity = self.runner.manifest.capacity
        if capacity is not None and length >= capacity:
            return f"the bundle's capacity is {capacity} tokens"
        expected = self.seconds_per_token * length
        left = max(0.0, self.options.budget_seconds - (perf_counter() - self.start))
        if expected > left:
            return f"would take {expected:.0f} s or more; {left:.0f} s of the time budget were left"
        return None

    def _timed(self, batch: int, length: int) -> Point:
        ids = self.random.integers(0, self.runner.manifest.vocab_size, (batch, length))
        device = self.runner if isinstance(self.runner, TellsDeviceMemory) else None
        if device:
            device.reset_peak_device_memory()
        with peak_resident() as peak:
            warm_up, session = self._prefill(ids)
        host_bytes = max(0, peak() - self.resident)
        times: list[float] = []
        end = perf_counter() + self.share - warm_up
        while len(times) < self.options.repeats and (not times or perf_counter() + times[-1] < end):
            session.close()
            seconds, session = self._prefill(ids)
            times.append(seconds)
        self.seconds_per_token = min([warm_up, *times]) / length
        with session:
            state_bytes = _state_bytes(session)
            steps = self._decode(session, max(self.share / 2, end - perf_counter()))
        return Point(
            batch,
            length,
            median(times),
            len(times),
            median(steps) if steps else None,
            len(steps),
            state_bytes,
            host_bytes,
            device.peak_device_memory() if device else None,
        )

    def _prefill(self, ids: Tokens) -> tuple[float, Session]:
        """Seconds from a prompt to its next token, and the session that now holds it."""
        batch, length = ids.shape
        capacity = self.runner.manifest.capacity
        room = length + self.options.steps + 1
        session = self.runner.session(batch, room if capacity is None else min(room, capacity))
        start = perf_counter()
        logits = session.prefill(ids)[:, -1]
        logits.argmax(-1)
        seconds = perf_counter() - start
        check_logits(self.runner, logits, f"{length} random tokens")
        return seconds, session

    def _decode(self, session: Session, seconds: float) -> list[float]:
        """Seconds of each step after an untimed one, until ``seconds`` or ``options.steps`` are spent."""
        capacity = self.runner.manifest.capacity
        most = self.options.steps + 1
        if capacity is not None:
            most = min(most, capacity - int(session.lengths.max()))
        times: list[float] = []
        end = perf_counter() + seconds
        for _ in range(most):
            ids = self.random.integers(0, self.runner.manifest.vocab_size, session.batch)
            start = perf_counter()
            session.step(ids).argmax(-1)
            times.append(perf_counter() - start)
            if perf_counter() > end:
                break
        return times[1:]


def _state_bytes(session: Session) -> int:
    states = session.read_states()
    return sum(states[spec.past_name].size * ITEM_BYTES[spec.dtype] for spec in session.manifest.states)


@contextmanager
def peak_resident() -> Iterator[Callable[[], int]]:
    """Sample this process's resident memory; the yielded function tells the most, in bytes."""
    process, done = psutil.Process(), threading.Event()
    samples = [process.memory_info().rss]

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            samples.append(process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield lambda: max(samples)
    finally:
        done.set()
        thread.join()
        samples.append(process.memory_info().rss)
