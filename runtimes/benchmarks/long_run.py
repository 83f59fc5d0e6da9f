"""Errors of an engine over thousands of decode steps, where PyTorch and TensorRT are in different interpreters.

    python -m seqexport.runtimes.benchmarks.long_run answer BUNDLE FILE   # PyTorch: what is true, and its own errors
    python -m seqexport.runtimes.benchmarks.long_run replay BUNDLE FILE   # TensorRT: the engine's errors beside them

FILE is safetensors: random tokens, and the float64 original's logits and states on them (accuracy.py says which).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from seqexport.plugins.errors import UserError
from seqexport.plugins.publish import whole_file
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.comparison.accuracy import (
    Accuracy,
    Answers,
    accuracy,
    answers,
    checks,
    pass_accuracy,
    worse_of,
)
from seqexport.runtimes.text import Rows

PROMPT, STEPS = 128, 2000


def random_rows(bundle: Bundle, steps: int, seed: int = 0) -> Rows:
    """One row of a prompt, ``steps`` tokens after it, and what would come next; fewer where the cache is smaller.

    Raises:
        UserError: the cache has no room for more than the prompt.
    """
    fed, capacity = PROMPT + steps, bundle.manifest.capacity
    if capacity is not None:
        fed = min(fed, capacity)
    if fed <= PROMPT:
        raise UserError(
            f"{bundle.path}: capacity of {capacity} tokens, expected more than {PROMPT}; export it with --max-len"
        )
    ids = np.random.default_rng(seed).integers(0, bundle.manifest.vocab_size, (1, fed + 1))
    return Rows(ids, fed + 1 - PROMPT)


def answer(bundle: Bundle, file: Path, *, steps: int, device: str, source: str | None) -> Accuracy:
    """Write the float64 original's answers, and give PyTorch's own errors in the bundle's dtype, without TF32."""
    import torch

    from seqexport.runtimes.pytorch.runner import TorchRunner

    torch.backends.cudnn.allow_tf32 = False
    rows = random_rows(bundle, steps)
    with TorchRunner(bundle, original=source, device=device, arithmetic="float64", logits="all") as float64:
        truth = answers(float64, rows, PROMPT)
    with TorchRunner(bundle, original=source, device=device) as native:
        own = accuracy(native, truth)
    with TorchRunner(bundle, original=source, device=device, logits="all") as native:
        own = worse_of(own, pass_accuracy(native, truth))
    write(file, truth, own)
    return own


def write(file: Path, truth: Answers, own: Accuracy) -> None:
    tensors: dict[str, Any] = {"ids": truth.rows.ids, "prompts": truth.prompts, "logits": truth.logits}
    for step, states in truth.states.items():
        tensors |= {f"{step}/{name}": value for name, value in states.items()}
    metadata = {
        "own": msgspec.json.encode(own).decode(),
        "bytes": str(truth.rows.bytes),
        "prompt": str(truth.prompt),
    }
    with whole_file(file) as unfinished:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, unfinished, metadata)


def read(file: Path) -> tuple[Answers, Accuracy]:
    """What ``write`` wrote.

    Raises:
        UserError: it is not such a file.
    """
    try:
        with safe_open(file, "numpy") as stored:
            metadata, names = stored.metadata(), stored.keys()
            states: dict[int, dict[str, Any]] = {}
            for name in names:
                step, slash, state = name.partition("/")
                if slash:
                    states.setdefault(int(step), {})[state] = stored.get_tensor(name)
            rows = Rows(stored.get_tensor("ids"), int(metadata["bytes"]))
            prompts, logits = stored.get_tensor("prompts"), stored.get_tensor("logits")
            truth = Answers(rows, int(metadata["prompt"]), prompts, logits, states)
            return truth, msgspec.json.decode(metadata["own"], type=Accuracy)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not a file of long_run answer ({error}); make it again") from error


def replay(bundle: Bundle, file: Path, backend: str) -> dict[str, Any]:
    """The backend's errors, PyTorch's own, and the checks of the one against the other."""
    from seqexport.runtimes.backends import open_runner

    truth, own = read(file)
    with open_runner(backend, bundle) as runner:
        found = accuracy(runner, truth)
        description = runner.description
    held = checks(found, own, bundle.manifest.dtype)
    return {"runner": description, "steps": truth.steps, "checks": held, "found": found, "own": own}


@click.group()
def main() -> None:
    pass


@main.command("answer")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--steps", default=STEPS, show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--source", help="The original [default: where the bundle was exported from].")
def answer_command(bundle: Path, file: Path, steps: int, device: str, source: str | None) -> None:
    from seqexport.runtimes.quiet import quiet

    with quiet():
        own = answer(open_bundle(bundle), file, steps=steps, device=device, source=source)
    click.echo(msgspec.json.encode(own))


@main.command("replay")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--backend", default="trt", show_default=True)
def replay_command(bundle: Path, file: Path, backend: str) -> None:
    click.echo(msgspec.json.encode(replay(open_bundle(bundle), file, backend)))


if __name__ == "__main__":
    run(main)
