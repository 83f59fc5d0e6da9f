"""How long an export takes, and how much memory, for random Mamba checkpoints of real sizes.

    python -m seqexport.exporter.benchmarks.export_cost [--sizes 130m,790m,1.4b] [-o export_cost.json]

Time counts from the loaded model to the sealed bundle, tracing, writing and recording the original's answers included;
memory is the peak resident size of the whole exporting process, the mapped checkpoint included. Verification, which
runs the bundle in another runtime, is not part of either.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import msgspec
import psutil

from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.output import write_json
from seqexport.runtimes.tables import FittedTable, open_console

SIZES = {"130m": (768, 24), "790m": (1536, 48), "1.4b": (2048, 48)}
TIME_ALLOWED = 60.0
GIGABYTE = 1e9


@click.command()
@click.option("--sizes", default=",".join(SIZES), show_default=True, help="Which, separated by commas.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("export_cost.json"), show_default=True)
@click.option("--child", type=click.Path(path_type=Path), hidden=True)
def main(sizes: str, output: Path, child: Path | None) -> None:
    if child is not None:
        click.echo(json.dumps(_export(child)))
        return
    from seqexport.runtimes.machine import this_machine

    rows = [_measure(size) for size in sizes.split(",")]
    _print(rows)
    record = {"machine": msgspec.to_builtins(this_machine()), "results": rows}
    write_json(output, record)


def _measure(size: str) -> dict[str, Any]:
    """Export in a process of its own, so that its peak memory is the export's alone."""
    with tempfile.TemporaryDirectory() as folder:
        weights = _save_random(size, Path(folder))
        command = [sys.executable, "-m", "seqexport.exporter.benchmarks.export_cost", "--child", folder]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        measured = json.loads(result.stdout.splitlines()[-1])
    allowed = 1.5 * weights + GIGABYTE
    return {"model": f"mamba-{size}", "dtype": "float16", "weights_bytes": weights, **measured,
            "peak_bytes_allowed": allowed, "seconds_allowed": TIME_ALLOWED}  # fmt: skip


def _save_random(size: str, folder: Path) -> int:
    """A random checkpoint in a process of its own; gives the bytes of its weights."""
    hidden, layers = SIZES[size]
    program = (
        "import sys, torch; from transformers import MambaConfig, MambaForCausalLM; torch.manual_seed(0);"
        "torch.set_default_dtype(torch.float16);"
        f"config = MambaConfig(hidden_size={hidden}, num_hidden_layers={layers}, rescale_prenorm_residual=False);"
        "MambaForCausalLM(config).save_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, stderr=subprocess.DEVNULL)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _export(checkpoint: Path) -> dict[str, Any]:
    from seqexport.exporter.pipeline import ExportOptions, export
    from seqexport.runtimes.quiet import quiet

    stages: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start = perf_counter()
        yield
        stages[name.split()[0]] = round(perf_counter() - start, 2)

    with quiet(), tempfile.TemporaryDirectory(dir=checkpoint) as folder:
        export(ExportOptions(model=str(checkpoint)), Path(folder) / "bundle", stage)
    seconds = sum(taken for name, taken in stages.items() if name != "load")
    return {"seconds": round(seconds, 2), "stages": stages, "peak_bytes": _peak_bytes()}


def _peak_bytes() -> int:
    memory = psutil.Process().memory_info()
    if sys.platform == "win32":
        return memory.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _print(rows: list[dict[str, Any]]) -> None:
    table = FittedTable(title="Export of random fp16 Mamba checkpoints", title_justify="left")
    for name in ("model", "weights", "time after loading", "allowed", "peak memory", "1.5 x weights + 1 GB"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        sizes = (f"{row[key] / GIGABYTE:.2f} GB" for key in ("weights_bytes", "peak_bytes", "peak_bytes_allowed"))
        weights, peak, allowed = sizes
        table.add_row(row["model"], weights, f"{row['seconds']:.1f} s", f"{TIME_ALLOWED:.0f} s", peak, allowed)
    open_console().print(table)


if __name__ == "__main__":
    run(main)
