"""TensorRT's column: bundles are made here, and built and verified where a GPU is."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import click

from seqexport.exporter.benchmarks.setting import Setting, StepFailed, find_gpu
from seqexport.exporter.pipeline import ExportOptions, export
from tests.exporter.families import EXPORTED, save
from tests.support import digest, records

CAPACITY = 48
DTYPES = ("float32", "float16")


def make_bundles(folder: Path, families: Sequence[str]) -> None:
    """A bundle of target ``tensorrt`` for each family and dtype; all families where none is named."""
    for family in families or list(EXPORTED):
        checkpoint = save(EXPORTED[family], folder / "checkpoints" / family)
        for dtype in DTYPES:
            options = ExportOptions(
                model=str(checkpoint), dtype=dtype, target="tensorrt", max_len=CAPACITY, logits="all", force=True
            )
            export(options, folder / _name(family, dtype), lambda stage: nullcontext())


@click.command("tensorrt")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--tensorrt-python", default=sys.executable, help="An interpreter with TensorRT [default: this one].")
@click.option("--tensorrt-path", help="Its PYTHONPATH [default: the same as here].")
@click.option("--build-flags", default="", help="For every `seqexport build`.")
@click.option("--jobs", default=1, show_default=True, help="Engines at a time.")
def run(folder: Path, tensorrt_python: str, tensorrt_path: str | None, build_flags: str, jobs: int) -> None:
    """On a GPU: build, verify and record the bundles.

    FOLDER is where `bundles` exported them; those of today's models count.
    """
    flags = tuple(shlex.split(build_flags))
    setting = Setting(find_gpu(), folder / "work", tensorrt_python, tensorrt_path, build_flags=flags, jobs=jobs)
    found = [(family, dtype) for family in EXPORTED for dtype in DTYPES if (folder / _name(family, dtype)).is_dir()]
    with ThreadPoolExecutor(jobs) as pool:
        passed = list(pool.map(lambda case: _passes(setting, folder, _name(*case)), found))
    outcomes = {(*case, "tensorrt"): fine for case, fine in zip(found, passed, strict=True)}
    file = records.FOLDER / "tensorrt.json"
    records.write(file, records.record(outcomes, {"TensorRT": _version(setting), "GPU": setting.gpu.name}))
    print(f"{file}: {sum(passed)} of {len(passed)} passed")


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
