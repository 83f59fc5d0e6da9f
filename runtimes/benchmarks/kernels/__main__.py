"""Times the CUDA kernels beside the best of what else is installed, after checking each result against float64.

    python -m seqexport.runtimes.benchmarks.kernels [--only ssd_scan] [--library FILE] [--json kernels.json]

Times are CUDA events around one call, warm, L2 cleared before each, median; what takes less than a launch is timed in a
CUDA graph. `floor` is what the hardware allows: special-function units for the scan, a device copy's bandwidth for
convolution and decode, a large product's rate for prefill (both measured here), in float32 that of the FMA units. A
case that fails is said, and the others are timed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import torch

from seqexport.plugins import library
from seqexport.plugins.kernels.c_api import Kernels
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.benchmarks.kernels.bench import Bench
from seqexport.runtimes.benchmarks.kernels.cases import CASES
from seqexport.runtimes.benchmarks.kernels.report import Report


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--library", "path", help="libseqexport_kernels.so [default: the one that was built].")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the table here as well.")
@click.option("--only", default="", help="Ops to time, by a part of their name.")
def main(path: str | None, output: Path | None, only: str) -> None:
    torch.manual_seed(0)
    bench = Bench(Kernels(path or str(library.require("kernels").path)))
    report = Report(bench.rates)
    for op, (measure, shapes) in CASES.items():
        for shape in shapes if only in op else ():
            try:
                report.add(measure(bench, *shape))
            except Exception as error:  # the others are still timed
                report.fail(op, shape, error)
    if output is not None:
        report.write(output)
    sys.exit(1 if report.failures else 0)


if __name__ == "__main__":
    run(main)
