"""What ``/metrics`` tells, in Prometheus' words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from seqexport.runtimes.serve.observer import Observer
from seqexport.runtimes.serve.service import Service

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Durations(Collector):
    """A histogram of seconds that takes many at once, in one thread; prometheus_client's takes one at a time."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name, self._documentation = name, documentation
        self._counts = np.zeros(len(SECONDS) + 1, np.int64)
        self._sum = 0.0

    def observe(self, seconds: Sequence[float]) -> None:
        places = np.searchsorted(SECONDS, seconds)
        self._counts = self._counts + np.bincount(places, minlength=len(self._counts))
        self._sum += sum(seconds)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        bounds = [*(floatToGoString(bound) for bound in SECONDS), "+Inf"]
        buckets = list(zip(bounds, self._counts.cumsum().tolist(), strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


class Metrics(Observer):
    """An engine's numbers and the requests', in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "seqexport_requests", "Requests answered, by path and status.", ["path", "status"], registry=registry
        )
        self._first = Histogram(
            "seqexport_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=SECONDS,
            registry=registry,
        )
        self._between = Durations("seqexport_time_between_tokens_seconds", "From a token of an answer to the next.")
        registry.register(self._between)
        self._batch = Histogram(
            "seqexport_batch_size", "Sequences in a step of the running batch.", buckets=ROWS, registry=registry
        )
        self._prompt = Counter("seqexport_prompt_tokens", "Tokens of prompts that were read.", registry=registry)
        self._answer = Counter("seqexport_answer_tokens", "Tokens of answers.", registry=registry)
        self._waiting = Gauge("seqexport_queue_length", "Requests that wait for a place.", registry=registry)
        self._running = Gauge("seqexport_running", "Requests that are being read or answered.", registry=registry)
        self._hits = Counter(
            "seqexport_prefix_hits", "Prompts of which a beginning was known already.", registry=registry
        )
        self._reused = Counter("seqexport_prefix_tokens", "Tokens that were not read again so.", registry=registry)
        self._prefixes = Gauge(
            "seqexport_prefix_bytes", "Bytes of what is remembered of prompts' beginnings.", registry=registry
        )
        self._sessions = Gauge("seqexport_session_bytes", "Bytes of sessions in memory.", registry=registry)
        self._states = Gauge("seqexport_state_bytes", "Bytes of states of the sequences that run.", registry=registry)

    def text(self, service: Service) -> bytes:
        """All of them in the text format, with what is so at this moment."""
        self._waiting.set(service.waiting)
        self._running.set(service.running)
        self._states.set(service.running * service.state_bytes)
        self._prefixes.set(service.prefix_bytes)
        self._sessions.set(service.sessions.nbytes)
        return generate_latest(self._registry)

    def answered(self, path: str, status: int) -> None:
        """A request was, at one of the server's own paths."""
        self._requests.labels(path, str(status)).inc()

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)
        self._answer.inc()

    def next_tokens(self, seconds: Sequence[float]) -> None:
        self._between.observe(seconds)
        self._answer.inc(len(seconds))

    def read(self, tokens: int, reused: int) -> None:
        self._prompt.inc(tokens - reused)
        if reused:
            self._hits.inc()
            self._reused.inc(reused)

    def stepped(self, rows: int) -> None:
        self._batch.observe(rows)
