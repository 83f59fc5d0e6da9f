"""TensorRT's column: bundles are made here, and built and verified where a GPU is."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from seqexport.exporter.benchmarks.setting import Setting, StepFailed, find_gpu
from seqexport.exporter.pipeline import ExportOptions, export
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.comparison.reference import open_session, read_reference
from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.pytorch.runner import TorchRunner
from tests.exporter.families import EXPORTED, save
from tests.exporter.steady import is_steady
from tests.support import digest, records

CAPACITY, MORE = 48, 12
DTYPES = ("float32", "float16")
FILE = records.FOLDER / records.TENSORRT


def make_bundles(folder: Path, families: Sequence[str]) -> None:
    """A bundle of target ``tensorrt`` for each family and dtype; all families where none is named."""
    for family in families or list(EXPORTED):
        checkpoint = save(EXPORTED[family], folder / "checkpoints" / family)
        for dtype in DTYPES:
            _make_bundle(checkpoint, dtype, folder / _name(family, dtype))


def _make_bundle(checkpoint: Path, dtype: str, output: Path) -> None:
    """With the first capacity for whose texts the choice of experts hangs on no rounding: the late ones end with it."""
    for capacity in range(CAPACITY, CAPACITY + MORE):
        options = ExportOptions(
            model=str(checkpoint), dtype=dtype, target="tensorrt", max_len=capacity, logits="all", force=True
        )
        export(options, output, lambda stage: nullcontext())
        if dtype == "float32" or _is_steady(checkpoint, dtype, open_bundle(output)):
            return
    raise SystemExit(f"{output.name}: with {MORE} capacities there are ties of experts")


def _is_steady(checkpoint: Path, dtype: str, bundle: Bundle) -> bool:
    model, reference = load_original(str(checkpoint), dtype=dtype), read_reference(bundle)
    runner = TorchRunner(bundle, model, logits="all", arithmetic="float64")

    def read() -> None:
        for text in (reference, *(reference.late or ())):
            with open_session(runner, replace(text, seq_lens=text.seq_lens[:1]), reference) as session:
                session.prefill(np.concatenate([text.tokens[:1], text.next_tokens[:1]], axis=1))

    return is_steady(model, read)


@click.command("tensorrt")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("families", nargs=-1, type=click.Choice(list(EXPORTED)), metavar="[FAMILY]...")
@click.option("--tensorrt-python", default=sys.executable, help="An interpreter with TensorRT [default: this one].")
@click.option("--tensorrt-path", help="Its PYTHONPATH [default: the same as here].")
@click.option("--build-flags", default="", help="For every `seqexport build`.")
@click.option("--jobs", default=1, show_default=True, help="Engines at a time.")
def run(
    folder: Path,
    families: tuple[str, ...],
    tensorrt_python: str,
    tensorrt_path: str | None,
    build_flags: str,
    jobs: int,
) -> None:
    """On a GPU: build, verify and record the bundles.

    FOLDER is where `bundles` exported them; those of today's models count, of every family or of those that are named.
    Each is recorded when it is done, beside what earlier runs with the same versions recorded.
    """
    flags = tuple(shlex.split(build_flags))
    setting = Setting(find_gpu(), folder / "work", tensorrt_python, tensorrt_path, build_flags=flags, jobs=jobs)
    versions = {"TensorRT": _version(setting), "GPU": setting.gpu.name}
    before, outcomes = records.of_tensorrt(), dict[tuple[str, str, str], bool]()
    cases = [(family, dtype) for family in families or EXPORTED for dtype in DTYPES]
    with ThreadPoolExecutor(jobs) as pool:
        started = {
            pool.submit(_passes, setting, folder, _name(*case)): (*case, "tensorrt")
            for case in cases
            if (folder / _name(*case)).is_dir()
        }
        for done in as_completed(started):
            outcomes[started[done]] = done.result()
            made = records.record(outcomes, versions)
            records.write(FILE, records.continued(before, made, outcomes) if before else made)
    print(f"{FILE}: {sum(outcomes.values())} of {len(outcomes)} passed")


def _name(family: str, dtype: str) -> str:
    return f"{family}-{dtype}-{digest(family)}"


def _passes(setting: Setting, folder: Path, name: str) -> bool:
    try:
        setting.tensorrt("exporter.cli", "build", folder / name, *setting.build_flags, log=f"build-{name}")
        setting.tensorrt("exporter.cli", "verify", folder / name, "--backend", "trt", log=f"verify-{name}")
    except StepFailed as failure:
        print(failure)
        return False
    return True


def _version(setting: Setting) -> str:
    asked = [setting.tensorrt_python, "-c", "import tensorrt; print(tensorrt.__version__)"]
    env = {} if setting.tensorrt_path is None else {"PYTHONPATH": setting.tensorrt_path}
    return f"TensorRT {setting.run(asked, log='version', env=env).strip()}"
