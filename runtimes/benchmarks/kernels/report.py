"""The table of what was timed, and its file."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from seqexport.runtimes.benchmarks.kernels.bench import Rates
from seqexport.runtimes.output import write_json


@dataclass(frozen=True)
class Wanted:
    """What is wanted at a shape.

    Attributes:
        target: the least of how many times faster than the fastest of ``beside`` it is, or the most microseconds.
        beside: names of peers, or ``floor``; empty: microseconds are wanted.
        measure: what the target is of, in words.
    """

    target: float
    measure: str = "us"
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timed:
    """Microseconds of one case: ours, what the hardware allows, and the peers'."""

    op: str
    shape: str
    ours: float
    floor: float
    peers: dict[str, float] = field(default_factory=dict)
    note: str = ""
    wanted: Wanted | None = None

    @property
    def measured(self) -> float | None:
        """What is wanted of it; None where nothing is, or no peer was there."""
        if self.wanted is None:
            return None
        if not self.wanted.beside:
            return self.ours
        theirs = [us for name, us in {**self.peers, "floor": self.floor}.items() if name in self.wanted.beside]
        return min(theirs) / self.ours if theirs else None

    def row(self) -> dict[str, Any]:
        peer, peer_us = min(self.peers.items(), key=lambda item: item[1], default=("", None))
        return {
            "op": self.op,
            "shape": self.shape,
            "ours_us": self.ours,
            "floor_us": self.floor,
            "peer": peer,
            "peer_us": peer_us,
            "peers_us": self.peers,
            "note": self.note,
            "measure": self.wanted and self.wanted.measure,
            "target": self.wanted and self.wanted.target,
            "at_most": self.wanted is not None and not self.wanted.beside,
            "measured": self.measured,
        }


class Report:
    """Prints each case as it comes, and keeps them all."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self.rows: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []
        print(f"{torch.cuda.get_device_name()}: copy {rates.copy / 1e12:.2f} TB/s, matrix product "
              f"{rates.product / 1e12:.0f} TFLOP/s")  # fmt: skip
        print(f"{'op':18s} {'shape':44s} {'ours us':>9s} {'floor us':>9s}  floor/ours  wanted     peer us")

    def add(self, timed: Timed) -> None:
        row = timed.row()
        self.rows.append(row)
        peer = f"{row['peer_us']:9.1f} {row['peer']}" if timed.peers else ""
        wanted = f"{'<=' if row['at_most'] else '>='} {row['target']:g}" if timed.wanted else ""
        print(f"{timed.op:18s} {timed.shape:44s} {timed.ours:9.1f} {timed.floor:9.1f} {timed.floor / timed.ours:6.0%}  "
              f"{wanted:10s} {peer} {timed.note}", flush=True)  # fmt: skip

    def fail(self, op: str, shape: object, error: Exception) -> None:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        self.failures.append({"op": op, "shape": str(shape), "error": said})
        print(f"{op:18s} {shape!s:44s} failed: {said}", flush=True)

    def write(self, output: Path) -> None:
        report = {
            "device": torch.cuda.get_device_name(),
            "date": datetime.date.today().isoformat(),
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "copy_bytes_per_s": self.rates.copy,
            "matrix_flop_per_s": self.rates.product,
            "method": "CUDA events, warm, L2 cleared, median",
            "rows": self.rows,
            "failures": self.failures,
        }
        write_json(output, report)
