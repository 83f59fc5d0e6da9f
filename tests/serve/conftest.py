"""A shipped model's engine, made once for all tests here."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.serve.engine import Engine
from seqexport.runtimes.serve.jobs import Job
from seqexport.runtimes.serve.requests import Chosen, End, Event, Failed, Limits, Piece, Request
from seqexport.runtimes.tokenizer import BundleTokenizer
from tests.conftest import Exported

LIMITS = Limits(max_batch=8, max_queue=64, max_tokens=400, chunk=16)


@dataclass(frozen=True)
class Whole:
    """All that came of a request."""

    text: str
    chosen: list[Chosen]
    last: End | Failed


class Asked:
    """A request that was submitted, and what comes of it."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._events: queue.Queue[Event] = queue.Queue()
        self.job: Job = engine.submit([request], [self._events.put])[0]

    def next(self) -> Event:
        return self._events.get(timeout=60)

    def whole(self) -> Whole:
        text, chosen = "", list[Chosen]()
        while isinstance(event := self.next(), Piece):
            text += event.text
            chosen += [event.chosen] if event.chosen else []
        return Whole(text, chosen, event)


def answers(engine: Engine, requests: Sequence[Request]) -> list[Whole]:
    """Of all requests, sent at once."""
    return [each.whole() for each in [Asked(engine, request) for request in requests]]


@pytest.fixture(scope="package")
def runner(exported: Exported) -> Iterator[OrtRunner]:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    with OrtRunner(bundle, threads=1, plugins=False) as opened:
        yield opened


@pytest.fixture(scope="package")
def tokenizer(runner: OrtRunner) -> BundleTokenizer:
    return BundleTokenizer(runner.bundle)


@pytest.fixture
def engine(runner: OrtRunner, tokenizer: BundleTokenizer) -> Iterator[Engine]:
    with Engine(runner, tokenizer, LIMITS) as opened:
        yield opened
