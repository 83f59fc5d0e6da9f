"""The same bundle in ONNX Runtime from C++ (seqexport-bench) and from Python: a prompt, and a token after it.

    python -m seqexport.runtimes.benchmarks.cpp_speed BUNDLE... --bench build/cpp/seqexport-bench [-o cpp_speed.json]

Batch 1. Each measurement runs in a process of its own, the two in turn, so that what else a machine does hits both
alike; of each the best round counts, of a round the median. A time counts from the tokens to the logits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from seqexport.plugins.errors import UserError
from seqexport.runtimes import units
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.benchmarks.timing import seconds
from seqexport.runtimes.bundle import open_bundle
from seqexport.runtimes.machine import this_machine
from seqexport.runtimes.output import write_json
from seqexport.runtimes.tables import FittedTable, open_console

TIMES = ("prompt_ms", "token_ms")


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--bench", type=click.Path(path_type=Path), help="The program seqexport-bench.")
@click.option("--plugins", type=click.Path(path_type=Path), help="libseqexport_ort.so; without it, function bodies.")
@click.option("--prompt", default=1024, show_default=True, help="Tokens.")
@click.option("--iterations", default=10, show_default=True, help="Of each in a round, after one that is not counted.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("cpp_speed.json"), show_default=True)
@click.option("--python", is_flag=True, hidden=True)
def main(bundles: tuple[Path, ...], bench: Path | None, output: Path, python: bool, rounds: int, **sizes: Any) -> None:
    if python:
        click.echo(json.dumps(measure(bundles[0], **sizes)))
        return
    if bench is None or not bench.is_file():
        raise UserError(f"--bench {bench}: no such file; build it as runtimes/cpp/README.md says")
    rows = []
    for bundle in bundles:
        ours = [_both(bundle, bench, sizes) for _ in range(rounds)]
        best = {name: {t: min(each[name][t] for each in ours) for t in TIMES} for name in ("cpp", "python")}
        runtime = {name: ours[0][name]["runtime"] for name in best}
        rows.append({"bundle": _name(bundle), **best, "rounds": ours, "runtime": runtime})
    _print(rows)
    setting = {name: value for name, value in sizes.items() if name != "plugins"} | {"rounds": rounds}
    write_json(output, {"machine": msgspec.to_builtins(this_machine()), "setting": setting, "results": rows})


def _name(folder: Path) -> str:
    manifest = open_bundle(folder, check_files=False).manifest
    return f"{manifest.architecture}, {manifest.source.parameters / 1e6:.0f} M, {manifest.dtype}, {manifest.target}"


def measure(bundle: Path, plugins: Path | None, prompt: int, iterations: int, threads: int) -> dict[str, Any]:
    """Medians in ms, from Python; ``plugins`` says only whether the library is used."""
    from seqexport.runtimes.ort.runner import OrtRunner

    with OrtRunner(open_bundle(bundle), threads=threads, plugins=plugins is not None) as runner:
        tokens = (np.arange(prompt)[None] * 7919) % runner.manifest.vocab_size
        capacity = prompt + iterations + 1 if runner.manifest.capacity else None
        with runner.session(1, capacity) as session:
            session.prefill(tokens)
            prompts = []
            for _ in range(iterations):
                session.reset()
                prompts.append(seconds(lambda: session.prefill(tokens), 1))
            session.step(tokens[:, 0])
            token = seconds(lambda: session.step(tokens[:, 0]), iterations)
        return {"runtime": runner.description, "prompt_ms": 1e3 * float(np.median(prompts)), "token_ms": 1e3 * token}


def _both(bundle: Path, bench: Path, sizes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each of the two says, one after the other."""
    flags = [f"--iterations={sizes['iterations']}", f"--threads={sizes['threads']}"]
    library = [f"--plugins={sizes['plugins']}"] if sizes["plugins"] else []
    ours = library or ["--no-plugins"]
    own = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--python", f"--prompt={sizes['prompt']}"]
    return {
        "cpp": _told([bench, bundle, f"--inputLen={sizes['prompt']}", *flags, *ours, "--json"]),
        "python": _told([*own, *flags, *library, bundle]),
    }


def _told(command: list[Any]) -> dict[str, Any]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{command[0]} failed: {' '.join(done.stderr.split())[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return {name: found[name] for name in ("runtime", *TIMES)}


def _print(rows: list[dict[str, Any]]) -> None:
    table = FittedTable(title="ONNX Runtime from C++ and from Python", title_justify="left")
    for name in ("bundle", "what"):
        table.add_column(name)
    for name in ("C++", "Python", "Python / C++"):
        table.add_column(name, justify="right")
    for row in rows:
        for time, what in zip(TIMES, ("prompt", "token"), strict=True):
            cpp, python = row["cpp"][time] / 1e3, row["python"][time] / 1e3
            table.add_row(row["bundle"], what, units.seconds(cpp), units.seconds(python), f"{python / cpp:.3f}")
    open_console().print(table)


if __name__ == "__main__":
    run(main)
