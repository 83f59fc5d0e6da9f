"""Models in another Python's ONNX Runtime, which has nothing of ours installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from seqexport.runtimes.base import Floats, Lengths, Runner, Session, Tokens
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.manifest import StateSpec
from tests.conftest import leave_out

OLDEST, MIDDLE, NEWEST = "SEQEXPORT_ORT_1_18", "SEQEXPORT_ORT_1_22", "this Python"
Arrays = dict[str, NDArray[Any]]


def python_of(version: str) -> str:
    """The interpreter that an environment variable names, for the versions that `make test` installs beside this."""
    python = sys.executable if version == NEWEST else os.environ.get(version)
    if python is None or subprocess.run([python, "-c", "import onnxruntime"], capture_output=True).returncode:
        number = version.rpartition("ORT_")[2].replace("_", ".")
        leave_out(f"tests in ONNX Runtime {number} left out: {version} names no Python that has it")
    return python


class Elsewhere:
    """A model open in another process, with a library of ops or without."""

    def __init__(self, version: str, model: Path, work: Path, *libraries: Path) -> None:
        command = [python_of(version), Path(__file__).with_name("old_runtime.py"), model, *libraries]
        self.inputs, self.outputs = work / "inputs.npz", work / "outputs.npz"
        self.process = subprocess.Popen(
            command, text=True, cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.runtime = self._answer()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        np.savez(self.inputs, **inputs)  # type: ignore[arg-type]
        assert self.process.stdin is not None
        print(self.inputs, self.outputs, file=self.process.stdin, flush=True)
        assert self._answer() == "done"
        return dict(np.load(self.outputs))

    def _answer(self) -> str:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline().strip():
            return line
        raise RuntimeError(self.process.communicate()[1])

    def close(self) -> None:
        self.process.communicate()


class ElsewhereRunner(Runner):
    """A bundle as any program runs it: states are handed in and out, nothing of ours is in the process."""

    backend: ClassVar[str] = "ort"

    def __init__(self, bundle: Bundle, version: str, work: Path, *libraries: Path) -> None:
        super().__init__(bundle)
        self.model = Elsewhere(version, bundle.model, work, *libraries)

    @property
    def description(self) -> str:
        return f"ONNX Runtime {self.model.runtime}"

    def session(self, batch: int = 1, capacity: int | None = None) -> Session:
        return _Session(self, batch, capacity or 0)

    def _close(self) -> None:
        self.model.close()


class _Session(Session):
    def __init__(self, runner: ElsewhereRunner, batch: int, capacity: int) -> None:
        super().__init__(runner, batch, capacity)
        self.model = runner.model
        self.states: Arrays = {
            spec.past_name: np.zeros(spec.sizes(batch, capacity), spec.dtype) for spec in self.manifest.states
        }

    def _run(self, tokens: Tokens, seq_lens: Lengths) -> Floats:
        given = {"input_ids": tokens, "seq_lens": seq_lens, "past_lens": self.lengths}
        outputs = self.model.run(given | self.states)
        self.states = {spec.past_name: outputs[spec.present_name] for spec in self.manifest.states}
        return outputs["logits"]

    def _read_state(self, spec: StateSpec) -> NDArray[np.floating]:
        state = self.states[spec.past_name]
        return state[:, :, : self.position] if spec.grows else state

    def _write(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        for name, given in states.items():
            self.states[name][tuple(slice(size) for size in given.shape)] = given

    def _close(self) -> None:
        pass
