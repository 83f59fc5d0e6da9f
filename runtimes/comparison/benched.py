"""What two kinds of benchmark, of language models and of any module, say alike: what was measured, where, and how."""

from __future__ import annotations

from typing import Any

from seqexport.runtimes.base import Runner
from seqexport.runtimes.machine import Machine, this_machine
from seqexport.runtimes.manifest import Record
from seqexport.runtimes.module import ModuleRunner

FORMAT_VERSION = 1


class Benched(Record, frozen=True):
    """A bundle on a backend of a machine."""

    format_version: int
    machine: Machine
    bundle: str
    architecture: str
    dtype: str
    target: str
    parameters: int
    backend: str
    description: str

    @property
    def title(self) -> str:
        """Of a table of what was measured."""
        where = f"{self.machine.gpu or self.machine.processor}, {self.machine.date}"
        return f"{self.bundle}, {self.dtype}: {self.description}; {where}"


def benched(runner: Runner | ModuleRunner) -> dict[str, Any]:
    """The fields of ``Benched``, as the runner has them on this machine."""
    manifest = runner.manifest
    return {
        "format_version": FORMAT_VERSION,
        "machine": this_machine(),
        "bundle": runner.bundle.name,
        "architecture": manifest.architecture,
        "dtype": manifest.dtype,
        "target": manifest.target,
        "parameters": manifest.source.parameters,
        "backend": runner.backend,
        "description": runner.description,
    }
