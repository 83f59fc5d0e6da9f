"""Vision models of published shapes on a CPU: ONNX Runtime beside PyTorch, memory by resolution, and an export's time.

    python -m seqexport.exporter.benchmarks.vision [--rounds 3] [--models vmamba_tiny,vim_small] [-o vision.json]

fp32, batch 1, two threads, random weights. Each measurement runs in a process of its own, the forms in turn. PyTorch
runs the scan as mamba_ssm's own reference does where its kernels do not, token by token. Of the op library's time,
``scan`` is the share of SelectiveScan, and ``arranging`` that of what brings a map into its orders and back: Transpose,
Slice, Concat, Gather, Split. The op library is measured where `seqexport plugins build` has built it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import msgspec
import numpy as np
from rich.progress import track

from seqexport.runtimes import units
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.output import write_json
from seqexport.runtimes.tables import FittedTable, open_console

MODELS, EXPORTED = ("vmamba_tiny", "vim_small"), "vmamba_base"
THREADS, SIDE, MEMORY_SIDES = 2, 224, (256, 512, 1024)
WANTED = {"torch": 8.0, "bodies": 3.0}
"""How many times faster the library shall be with VMamba-tiny's shape."""

EXPORT_WANTED = 60.0
ARRANGING = ("Transpose", "Slice", "Concat", "Gather", "Split")
FORMS = ("torch", "bodies", "library")


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Measurements of each; medians are reported.")
@click.option("--models", default=",".join(MODELS), show_default=True, help="Which are timed, separated by commas.")
@click.option("--export", "exported", default=EXPORTED, show_default=True, help="Whose export is timed.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("vision.json"), show_default=True)
@click.option("--child", nargs=3, hidden=True)
def main(rounds: int, models: str, exported: str, output: Path, child: tuple[str, str, str] | None) -> None:
    if child is not None:
        what, name, folder = child
        click.echo(json.dumps(CHILDREN[what](name, Path(folder))))
        return
    from seqexport.plugins import library
    from seqexport.runtimes.machine import this_machine

    forms = [form for form in FORMS if form != "library" or library.find("onnxruntime")]
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        timed = models.split(",")
        exports = {model: _child("export", model, place) for model in dict.fromkeys([*timed, exported])}
        speeds = [_speed(model, place, forms, rounds) for model in timed]
        (place / "memory").symlink_to(place / timed[0])
        memory = [{"side": side, **_child("memory", str(side), place)} for side in MEMORY_SIDES]
    record = {
        "machine": msgspec.to_builtins(this_machine()),
        "setting": {"side": SIDE, "threads": THREADS, "dtype": "float32", "batch": 1, "rounds": rounds},
        "wanted": WANTED,
        "speed": speeds,
        "memory": {"model": timed[0], "form": forms[-1], "points": memory},
        "export": {"model": exported, **exports[exported], "seconds_wanted": EXPORT_WANTED},
    }
    write_json(output, record)
    _print(record)


def _child(what: str, name: str, place: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "seqexport.exporter.benchmarks.vision", "--child", what, name, str(place)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _speed(model: str, place: Path, forms: list[str], rounds: int) -> dict[str, Any]:
    taken: dict[str, list[float]] = {form: [] for form in forms}
    for _ in track(range(rounds), description=f"{model} ..."):
        for form in forms:
            taken[form].append(_child(form, model, place)["seconds"])
    seconds = {form: statistics.median(each) for form, each in taken.items()}
    shares = _child("shares", model, place) if "library" in forms else {}
    return {"model": model, "seconds": seconds, **shares}


def _export(model: str, place: Path) -> dict[str, Any]:
    import torch

    import seqexport

    torch.set_num_threads(THREADS)
    with seqexport.mamba_ssm():
        from seqexport.exporter.benchmarks import vision_models
    module = getattr(vision_models, model)()
    torch.save(module, place / f"{model}.pt")
    start = perf_counter()
    seqexport.export(
        module,
        place / model,
        inputs={"image": torch.zeros(1, 3, SIDE, SIDE)},
        dynamic={"image": ("batch", 3, "height", "width")},
        target="ort",
    )
    return {"seconds": perf_counter() - start, "parameters": sum(each.numel() for each in module.parameters())}


def _torch(model: str, place: Path) -> dict[str, Any]:
    import torch

    import seqexport

    torch.set_num_threads(THREADS)
    with seqexport.mamba_ssm():
        module = torch.load(place / f"{model}.pt", weights_only=False)
    image = torch.from_numpy(_image(SIDE))
    with torch.no_grad():
        return {"seconds": _least(lambda: module(image))}


def _bodies(model: str, place: Path) -> dict[str, Any]:
    return _onnx(model, place, plugins=False)


def _library(model: str, place: Path) -> dict[str, Any]:
    return _onnx(model, place, plugins=True)


def _onnx(model: str, place: Path, *, plugins: bool) -> dict[str, Any]:
    import seqexport

    with seqexport.load(place / model, threads=THREADS, plugins=plugins) as runner:
        return {"seconds": _least(lambda: runner(image=_image(SIDE)))}


def _image(side: int) -> Any:
    return np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)


def _least(call: Any) -> float:
    """Seconds, the least of three after one that is not counted."""
    call()
    taken = []
    for _ in range(3):
        start = perf_counter()
        call()
        taken.append(perf_counter() - start)
    return min(taken)


def _shares(model: str, place: Path) -> dict[str, Any]:
    """Of the time of all nodes, each at its least, by ONNX Runtime's profile."""
    import onnxruntime as ort

    from seqexport.plugins import library

    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library.require("onnxruntime").path))
    options.intra_op_num_threads, options.enable_profiling = THREADS, True
    options.profile_file_prefix = str(place / "profile")
    session = ort.InferenceSession(place / model / "model.onnx", options, ["CPUExecutionProvider"])
    for _ in range(4):
        session.run(None, {"image": _image(SIDE)})
    least: dict[tuple[str, str], float] = defaultdict(lambda: float("inf"))
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            key = event["args"]["op_name"], event["name"]
            least[key] = min(least[key], event["dur"])
    by_op: dict[str, float] = defaultdict(float)
    for (op, _), microseconds in least.items():
        by_op[op] += microseconds
    whole = sum(by_op.values())
    return {"scan": by_op["SelectiveScan"] / whole, "arranging": sum(by_op[op] for op in ARRANGING) / whole}


def _memory(side: str, place: Path) -> dict[str, Any]:
    """Most memory of a call above what the loaded model holds."""
    import psutil

    import seqexport
    from seqexport.runtimes.comparison.measure import peak_resident

    image = _image(int(side))
    with seqexport.load((place / "memory").resolve(), threads=THREADS) as runner:
        before = psutil.Process().memory_info().rss
        with peak_resident() as peak:
            runner(image=image)
        return {"bytes": peak() - before}


CHILDREN = {
    "export": _export,
    "torch": _torch,
    "bodies": _bodies,
    "library": _library,
    "shares": _shares,
    "memory": _memory,
}


def _print(record: dict[str, Any]) -> None:
    console = open_console()
    table = FittedTable(title=f"{SIDE} x {SIDE}, {THREADS} threads", title_justify="left")
    for name in ("model", *FORMS, "x PyTorch", "x bodies", "scan", "arranging"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in record["speed"]:
        seconds = row["seconds"]
        ratios = [units.ratio(seconds[form] / seconds["library"]) if "library" in seconds else "" for form in WANTED]
        shares = [units.percent(row.get(name)) for name in ("scan", "arranging")]
        table.add_row(row["model"], *(units.seconds(seconds.get(form)) for form in FORMS), *ratios, *shares)
    console.print(table)
    told = ", ".join(f"{point['side']}: {units.size(point['bytes'])}" for point in record["memory"]["points"])
    console.print(f"Memory of {record['memory']['model']} by side, {record['memory']['form']}: {told}")
    export = record["export"]
    console.print(
        f"Export of {export['model']}: {units.seconds(export['seconds'])}, at most {EXPORT_WANTED:.0f} s wanted"
    )


if __name__ == "__main__":
    run(main)
