"""TensorRT's column: bundles are made here, and built and verified where a GPU is."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from seqexport.exporter.pipeline import ExportOptions, export
from tests.exporter.families import EXPORTED, save
from tests.support import digest, records

CAPACITY = 64
DTYPES = ("float32", "float16")


def make_bundles(folder: Path, families: list[str]) -> None:
    """A bundle of target ``tensorrt`` for each family and dtype."""
    from contextlib import nullcontext

    for family in families or list(EXPORTED):
        checkpoint = save(EXPORTED[family], folder / "checkpoints" / family)
        for dtype in DTYPES:
            options = ExportOptions(
                model=str(checkpoint), dtype=dtype, target="tensorrt", max_len=CAPACITY, logits="all", force=True
            )
            export(options, folder / f"{family}-{dtype}-{digest(family)}", lambda stage: nullcontext())


def run(folder: Path) -> None:
    """Build and verify every bundle of today's models, and record those that pass."""
    wanted = {f"{family}-{dtype}-{digest(family)}": (family, dtype) for family in EXPORTED for dtype in DTYPES}
    outcomes = {}
    for name, (family, dtype) in wanted.items():
        if (folder / name).is_dir():
            fine = _does("build", folder / name) and _does("verify", folder / name)
            outcomes[family, dtype, "tensorrt"] = fine
    file = records.FOLDER / "tensorrt.json"
    records.write(file, records.record(outcomes, {"TensorRT": _version(), "GPU": _gpu()}))
    print(f"{file}: {sum(outcomes.values())} of {len(outcomes)} passed")


def _does(command: str, bundle: Path) -> bool:
    backend = ["--backend", "trt"] if command == "verify" else []
    done = subprocess.run([sys.executable, "-m", "seqexport", command, str(bundle), *backend], capture_output=True)
    if done.returncode:
        print(f"{bundle.name}: {command}: {done.stderr.decode(errors='replace').strip()[-400:]}")
    return done.returncode == 0


def _version() -> str:
    return f"TensorRT {importlib.metadata.version('tensorrt')}"


def _gpu() -> str:
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]
