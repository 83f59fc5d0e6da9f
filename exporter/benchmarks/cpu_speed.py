"""ONNX Runtime beside transformers' own PyTorch path on a CPU, for random models of 130 M parameters.

    python -m seqexport.exporter.benchmarks.cpu_speed [--rounds 3] [-o cpu_speed.json]

fp32, batch 1, two threads, last logits; a prompt of 1024 tokens, then single tokens after it. Each measurement runs
in a process of its own, the forms in turn, so that no thread pool waits beside another and drift hits all alike.
PyTorch uses SDPA attention and, for the Mambas, the plain path of transformers (its CUDA kernels do not run on a CPU).
The op library is measured where `seqexport plugins build` has built it. A token's floor is the time in which the
weights are read once at the bandwidth of a large copy, counting what it reads and writes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import msgspec
import numpy as np
from rich.progress import track

from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.output import write_json
from seqexport.runtimes.tables import FittedTable, open_console

PROMPT, STEPS, THREADS, VOCABULARY = 1024, 40, 2, 50280
MODELS = {
    "mamba": "MambaForCausalLM(MambaConfig(hidden_size=768, num_hidden_layers=24, rescale_prenorm_residual=False,"
    f" vocab_size={VOCABULARY}))",
    "mamba2": "Mamba2ForCausalLM(Mamba2Config(hidden_size=768, num_hidden_layers=24, num_heads=24, head_dim=64,"
    f" n_groups=1, state_size=128, rescale_prenorm_residual=False, tie_word_embeddings=True, vocab_size={VOCABULARY}))",
    "llama": "LlamaForCausalLM(LlamaConfig(hidden_size=768, num_hidden_layers=12, intermediate_size=2048,"
    f" num_attention_heads=12, max_position_embeddings=4096, tie_word_embeddings=True, vocab_size={VOCABULARY}))",
}
BODIES = {
    "mamba": {"prefill": 4.0, "decode": 2.2},
    "mamba2": {"prefill": 1.5, "decode": 2.0},
    "llama": {"prefill": 1.0, "decode": 1.0},
}
LIBRARY = {
    "mamba": {"prefill": 5.0, "decode": 2.2},
    "mamba2": {"prefill": 4.0, "decode": 2.0},
    "llama": {"prefill": 1.0, "decode": 1.0},
}
"""How many times faster than PyTorch it shall be, without and with the op library."""

Form = tuple[str, str, bool]
FORMS: tuple[Form, ...] = (
    ("torch", "ort", False),
    ("ort", "ort", False),
    ("ort", "portable", False),
    ("ort", "portable", True),
)
"""What runs, on which target's bundle, and whether with the op library; PyTorch's results depend on neither."""


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Measurements of each; medians are reported.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("cpu_speed.json"), show_default=True)
@click.option("--child", nargs=3, hidden=True)
def main(rounds: int, output: Path, child: tuple[str, str, str] | None) -> None:
    if child is not None:
        backend, bundle, library = child
        click.echo(json.dumps(_time(backend, bundle, with_library=library == "True")))
        return
    from seqexport.plugins import library as plugins
    from seqexport.runtimes.machine import this_machine

    forms = [form for form in FORMS if not form[2] or plugins.find("onnxruntime")]
    rows: list[dict[str, Any]] = []
    bandwidth = _copy_bandwidth()
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            _prepare(model, Path(folder))
            floor = (Path(folder) / "checkpoint" / "model.safetensors").stat().st_size / bandwidth
            rows += [{**row, "decode_floor": floor} for row in _measure(model, Path(folder), forms, rounds)]
    _print(rows)
    setting: dict[str, Any] = {"prompt": PROMPT, "threads": THREADS, "dtype": "float32", "batch": 1, "rounds": rounds}
    setting["copy_bytes_per_second"] = bandwidth
    record = {"machine": msgspec.to_builtins(this_machine()), "setting": setting, "results": rows}
    write_json(output, record)


def _prepare(model: str, folder: Path) -> None:
    """A random checkpoint, and its bundle for each target."""
    program = "import sys, torch; from transformers import *; torch.manual_seed(0);" + (
        f"{MODELS[model]}.save_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(folder / "checkpoint")], check=True, stderr=subprocess.DEVNULL)
    for target in {target for _, target, _ in FORMS}:
        options = ["--model", folder / "checkpoint", "-o", folder / target, "--target", target, "--no-verify"]
        command = [sys.executable, "-m", "seqexport.exporter.cli", "onnx", *map(str, options)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _copy_bandwidth() -> float:
    """Bytes a second that a copy of 512 MiB reads and writes; the best of ten."""
    import torch

    torch.set_num_threads(THREADS)
    source = torch.ones(2**27)
    target, taken = torch.empty_like(source), []
    for _ in range(10):
        start = perf_counter()
        target.copy_(source)
        taken.append(perf_counter() - start)
    return 2 * source.nbytes / min(taken)


def _measure(model: str, folder: Path, forms: list[Form], rounds: int) -> list[dict[str, Any]]:
    taken: dict[Form, list[dict[str, float]]] = {form: [] for form in forms}
    for _ in track(range(rounds), description=f"{model} ..."):
        for form in forms:
            backend, target, with_library = form
            command = [sys.executable, "-m", "seqexport.exporter.benchmarks.cpu_speed", "--child", backend]
            result = subprocess.run(
                [*command, str(folder / target), str(with_library)],
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            taken[form].append(json.loads(result.stdout))
    return [
        {"model": model, "backend": backend, "target": target, "library": with_library, **_medians(measured)}
        for (backend, target, with_library), measured in taken.items()
    ]


def _medians(measured: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in measured) for name in measured[0]}


def _time(backend: str, bundle: str, *, with_library: bool) -> dict[str, float]:
    """Seconds of a prefill, and of one decode step after it: medians after a warm-up."""
    from seqexport.runtimes.backends import open_runner
    from seqexport.runtimes.bundle import open_bundle

    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (1, PROMPT))
    options: dict[str, Any] = {"threads": THREADS, **({"plugins": with_library} if backend == "ort" else {})}
    with open_runner(backend, open_bundle(bundle, check_files=False), **options) as runner:
        prefills = []
        for _ in range(3):
            session = runner.session(1, PROMPT + STEPS)
            start = perf_counter()
            session.prefill(tokens)
            prefills.append(perf_counter() - start)
        steps = []
        for _ in range(STEPS):
            start = perf_counter()
            session.step(tokens[:, 0])
            steps.append(perf_counter() - start)
    return {"prefill": statistics.median(prefills[1:]), "decode": statistics.median(steps[5:])}


def _print(rows: list[dict[str, Any]]) -> None:
    table = FittedTable(title=f"{PROMPT} tokens, then one at a time; {THREADS} threads", title_justify="left")
    for name in ("model", "runs", "prefill", "x PyTorch", "wanted", "a token", "x PyTorch", "wanted", "of its floor"):
        table.add_column(name, justify="left" if name in ("model", "runs") else "right")
    original = {row["model"]: row for row in rows if row["backend"] == "torch"}
    for row in rows:
        torch = original[row["model"]]
        ours = f"ONNX Runtime, {row['target']}" + (", op library" if row["library"] else "")
        targets = (LIBRARY if row["library"] else BODIES)[row["model"]]
        cells = [row["model"], "PyTorch" if row is torch else ours]
        for what, shown in (("prefill", f"{row['prefill']:.2f} s"), ("decode", f"{row['decode'] * 1e3:.1f} ms")):
            ratio, wanted = f"{torch[what] / row[what]:.2f}", f"{targets[what]}"
            cells += [shown, *(["", ""] if row is torch else [ratio, wanted])]
        table.add_row(*cells, f"{row['decode_floor'] / row['decode']:.0%}")
    open_console().print(table)


if __name__ == "__main__":
    run(main)
