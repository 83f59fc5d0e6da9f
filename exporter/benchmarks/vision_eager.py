"""Times a vision model of vision_models.py in eager PyTorch on a GPU, float16, with mamba_ssm's kernels where they are.

    python -m seqexport.exporter.benchmarks.vision_eager vim_small 32

A time counts from the pictures on the host to the features on the host; median, warm. Without mamba_ssm and
causal-conv1d our stand-ins run, which is plain PyTorch; ``scans`` counts the calls of mamba_ssm's kernel.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import click
import numpy as np
import torch

import seqexport
from seqexport.exporter.benchmarks.bundles import SIDE
from seqexport.runtimes.benchmarks import peers
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.benchmarks.timing import seconds

WARM, REPEATS = 3, 20
WITHOUT = 1
"""Calls that are timed where each token of a scan is a call of its own."""


def measure(name: str, batch: int, *, device: str = "cuda") -> dict[str, Any]:
    """Seconds of a call on [batch,3,SIDE,SIDE], and how it was made."""
    whole = peers.have_scan()
    with nullcontext() if whole else seqexport.mamba_ssm():
        from seqexport.exporter.benchmarks import vision_models
    torch.backends.cudnn.benchmark = True
    module = getattr(vision_models, name)().half().to(device).eval()
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((batch, 3, SIDE, SIDE))).half()

    def call() -> torch.Tensor:
        features: torch.Tensor = module(image.to(device)).cpu()
        return features

    with torch.no_grad(), peers.counted() as counts:
        finite = bool(call().isfinite().all())
    with torch.no_grad():
        if whole:
            seconds(call, WARM)
        taken = seconds(call, REPEATS if whole else WITHOUT)
    scans = counts.get(peers.MAMBA_1[1], 0)
    return {"seconds": taken, "scans": scans, "finite": finite, "torch": torch.__version__}


@click.command()
@click.argument("name")
@click.argument("batch", type=click.IntRange(1))
def main(name: str, batch: int) -> None:
    click.echo(json.dumps(measure(name, batch)))


if __name__ == "__main__":
    run(main)
