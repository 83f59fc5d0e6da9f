"""What Python says to a prompt, and after a session that C++ saved; the GPU run holds seqexport-run to it.

    python -m seqexport.runtimes.benchmarks.session_tokens BUNDLE FOLDER --tokens 84,104,101 [--backend trt]

For each way of choosing (``WAYS``) it reads FOLDER/<way>-cpp.safetensors, saves FOLDER/<way>-python.safetensors, and
prints JSON: ``first`` tokens, the ``rest`` that comes after them, and ``resumed``, what comes after C++'s file.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from seqexport.runtimes.backends import open_runner
from seqexport.runtimes.base import Runner, Session
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.bundle import open_bundle
from seqexport.runtimes.sampling import Sampling

WAYS = {"greedy": Sampling(), "sampled": Sampling(0.9, 40, 0.95, 7)}
FIRST, REST = 40, 24


def _next(session: Session, count: int, sampling: Sampling | None = None) -> list[int]:
    return [int(tokens[0]) for tokens in session.generate(count, sampling)]


def answers(runner: Runner, folder: Path, prompt: list[int]) -> dict[str, dict[str, list[int]]]:
    found = {}
    for way, sampling in WAYS.items():
        with runner.session() as session:
            session.prefill(np.array([prompt]))
            first = _next(session, FIRST, sampling)
            session.save(folder / f"{way}-python.safetensors")
            rest = _next(session, REST)
        with runner.restore(folder / f"{way}-cpp.safetensors") as session:
            found[way] = {"first": first, "rest": rest, "resumed": _next(session, REST)}
    return found


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--tokens", required=True)
@click.option("--backend", default="trt", show_default=True)
def main(bundle: Path, folder: Path, tokens: str, backend: str) -> None:
    with open_runner(backend, open_bundle(bundle)) as runner:
        click.echo(json.dumps(answers(runner, folder, [int(token) for token in tokens.split(",")])))


if __name__ == "__main__":
    run(main)
