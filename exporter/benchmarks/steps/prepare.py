"""All that needs no quiet GPU, at the same time: libraries, peers, checkpoints, bundles, and PyTorch's answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from time import perf_counter

from seqexport.exporter.benchmarks import bundles
from seqexport.exporter.benchmarks.peers import build_peers
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import LeftOut, Setting, StepFailed
from seqexport.exporter.benchmarks.steps import plugin_build
from seqexport.exporter.benchmarks.steps.engines import ensure_answers

WORKERS = 8


def run(setting: Setting) -> Iterator[Row]:
    with ThreadPoolExecutor(WORKERS) as pool:
        making: dict[str, Callable[[], object]] = {
            "plugins": lambda: list(plugin_build.run(setting)),
            "peers": lambda: build_peers(setting),
            **{model: _model(setting, every) for model, every in _by_model(setting)},
        }
        started = {pool.submit(_timed, make): name for name, make in making.items()}
        for done in as_completed(started):
            yield _row(started[done], done)


def _by_model(setting: Setting) -> list[tuple[str, list[bundles.Wanted]]]:
    every = dict.fromkeys([*bundles.for_speed(setting), *bundles.for_vision(setting), *bundles.for_engines(setting)])
    models = dict.fromkeys(wanted.model for wanted in every)
    return [(model, [wanted for wanted in every if wanted.model == model]) for model in models]


def _model(setting: Setting, every: list[bundles.Wanted]) -> Callable[[], object]:
    """Its bundles one after another, then what PyTorch answers where an engine will be asked the same."""

    def make() -> None:
        for wanted in every:
            bundles.ensure_bundle(setting, wanted)
        asked = [wanted for wanted in every if wanted in bundles.for_engines(setting)]
        with ThreadPoolExecutor(len(every)) as pool:
            list(pool.map(lambda wanted: ensure_answers(setting, wanted), asked))

    return make


def _timed(make: Callable[[], object]) -> float:
    start = perf_counter()
    make()
    return perf_counter() - start


def _row(name: str, done: Future[float]) -> Row:
    try:
        return Row(name, passed=True, detail={"seconds": round(done.result(), 1)})
    except LeftOut as reason:
        return Row(name, detail={"left out": str(reason)})
    except StepFailed as failure:
        return Row(name, passed=False, detail={"error": str(failure)})
