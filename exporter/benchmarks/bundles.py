"""The bundles of the GPU run: the shipped models, random ones in the shapes of real models, or given ones."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from seqexport.exporter.benchmarks.setting import Setting
from seqexport.runtimes.benchmarks.checkpoints import CAPACITY

SHIPPED = ("mamba", "mamba2", "hybrid", "transformer")
RANDOM = ("mamba-130m", "llama-130m")
LARGE = ("mamba-1.4b", "llama-1.4b")
HUGE = ("nemotron-3-nano-4b", "llama-4b", "mamba2-2.7b")
HYBRID, ITS_SIZE = "nemotron-3-nano-4b", "llama-4b"
"""A hybrid, and the Transformer of its size, beside which its prompts are timed."""

VISION = ("vim-small", "vmamba-tiny")
"""Of vision_models.py, pictures of one size in batches of any."""

SCANS = ("mamba-130m", "mamba-1.4b", *VISION)
"""For which mamba_ssm has a kernel that must be compiled."""

THREADS = 4
"""Of an export, since several run at a time."""


SIDE = 224
"""Of the pictures."""


def factory_of(model: str) -> str:
    """The function of vision_models.py that makes a vision model."""
    return model.replace("-", "_")


@dataclass(frozen=True)
class Wanted:
    """One bundle: which model, in which dtype; ``given`` is a folder that is a bundle already."""

    model: str
    dtype: str
    given: Path | None = None
    target: str = "tensorrt"

    @property
    def name(self) -> str:
        if self.given:
            return self.model
        return f"{self.model}-{self.dtype}" + ("" if self.target == "tensorrt" else f"-{self.target}")

    @property
    def random(self) -> bool:
        return self.model in (*RANDOM, *LARGE, *HUGE)

    @property
    def has_peers(self) -> bool:
        """Whether mamba_ssm and causal-conv1d have kernels for any of its layers."""
        return not self.model.startswith("llama")

    def checkpoint(self, setting: Setting) -> Path:
        return setting.work / "checkpoints" / self.model

    def folder(self, setting: Setting) -> Path:
        return self.given or setting.work / "bundles" / self.name


def for_engines(setting: Setting) -> list[Wanted]:
    """What engines are built and verified of, largest first."""
    if setting.bundles:
        return [Wanted(path.resolve().name, "", path.resolve()) for path in setting.bundles]
    models = [model for model in (*RANDOM, *SHIPPED) if setting.wants(model)]
    return [Wanted(model, dtype) for model in models for dtype in setting.dtypes]


def for_speed(setting: Setting) -> list[Wanted]:
    """What is timed whole, beside PyTorch."""
    return [Wanted(model, "fp16") for model in (*HUGE, *LARGE, *RANDOM) if setting.wants(model)]


def for_vision(setting: Setting) -> list[Wanted]:
    """The vision models that are timed beside PyTorch."""
    return [Wanted(model, "fp16") for model in VISION if setting.wants(model)]


def ensure_checkpoint(setting: Setting, model: str) -> Path:
    """The folder of a random checkpoint, made if it is not there."""
    folder = setting.work / "checkpoints" / model
    if not folder.exists():
        setting.torch("runtimes.benchmarks.checkpoints", model, folder, log=f"checkpoint-{model}")
    return folder


def ensure_bundle(setting: Setting, wanted: Wanted) -> Path:
    """The bundle's folder, exported for its target if it is not there; a huge model's checkpoint makes room for it."""
    folder = wanted.folder(setting)
    if not folder.exists():
        source = ["--arch", wanted.model]
        if wanted.model in VISION:
            factory = f"seqexport.exporter.benchmarks.vision_models:{factory_of(wanted.model)}"
            axes = ["--input", f"image=1x3x{SIDE}x{SIDE}", "--dynamic", f"image=batch,3,{SIDE},{SIDE}"]
            source = ["--module", factory, *axes]
        elif wanted.random:
            source = ["--model", str(ensure_checkpoint(setting, wanted.model)), "--max-len", str(CAPACITY)]
        options = [*source, "--dtype", wanted.dtype, "--target", wanted.target, "--no-verify", "-o", str(folder)]
        setting.torch("exporter.cli", "onnx", *options, log=f"export-{wanted.name}", threads=THREADS)
        if wanted.model in HUGE:
            shutil.rmtree(wanted.checkpoint(setting))
    return folder


def ensure_another(setting: Setting, wanted: Wanted, name: str) -> Wanted:
    """The same bundle under another name, by links to its files: a bundle has room for one engine."""
    given = Wanted(f"{wanted.name}-{name}", "", setting.work / "bundles" / f"{wanted.name}-{name}")
    if not given.folder(setting).exists():
        files = ensure_bundle(setting, wanted)
        shutil.copytree(files, given.folder(setting), copy_function=os.link, ignore=shutil.ignore_patterns("engines"))
    return given
