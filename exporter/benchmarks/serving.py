"""The server on this machine, with the models that ship inside: streams at once, sessions that go on, a mixed load.

    python -m seqexport.exporter.benchmarks.serving [--requests 200000] [-o serving.json]

Exports them to a temporary folder (float32, target ort), and runs serve_speed on the Mamba, serve_resume on the Mamba
and the Transformer, and serve_load on the Mamba with one thread, on which answers are those alone to the last bit
without the op library too. Those programs, in runtimes/benchmarks, say what is measured.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import psutil

from seqexport.plugins.errors import UserError
from seqexport.runtimes.benchmarks import serve_resume, serve_speed
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.benchmarks.serve_load import __main__ as serve_load
from seqexport.runtimes.benchmarks.serve_load.tally import Differs
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.machine import this_machine
from seqexport.runtimes.output import require_writable, write_json

STREAMS, TOKENS, ROUNDS = (1, 64), 256, 3
RESUMED, SESSIONS = 4096, 9
CONNECTIONS, SEED = 64, 0


@click.command()
@click.option("--requests", type=click.IntRange(0), default=200_000, show_default=True, help="Of the load; 0: none.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("serving.json"), show_default=True)
def main(requests: int, output: Path) -> None:
    require_writable(output)
    before = psutil.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        mamba, transformer = (_exported(arch, Path(folder) / arch) for arch in ("mamba", "transformer"))
        speed = serve_speed.measure(mamba, "ort", {}, STREAMS, TOKENS, ROUNDS)
        _say(serve_speed.lines(speed))
        resumed = [serve_resume.measure(bundle, RESUMED, SESSIONS) for bundle in (mamba, transformer)]
        _say(line for found in resumed for line in serve_resume.lines(found))
        record: dict[str, Any] = {"speed": speed, "resume": resumed}
        if requests:
            record["load"] = _loaded(mamba, requests)
            _say([f"\n{serve_load.line(record['load'])}"])
    write_json(output, {"machine": this_machine(), "load_average_before": before, **record})


def _exported(arch: str, folder: Path) -> Bundle:
    """In a process of its own: this one, which is the client, stays small."""
    options = ["--arch", arch, "--target", "ort", "--dtype", "fp32", "--no-verify", "-o", str(folder)]
    subprocess.run([sys.executable, "-m", "seqexport", "onnx", *options], check=True, stdout=subprocess.DEVNULL)
    return open_bundle(folder)


def _loaded(bundle: Bundle, requests: int) -> dict[str, Any]:
    try:
        return serve_load.measure(bundle, requests, CONNECTIONS, SEED, threads=1)
    except Differs as error:
        raise UserError(f"an answer differs: {error}") from error


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line, err=True)


if __name__ == "__main__":
    run(main)
