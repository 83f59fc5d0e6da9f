"""What the steps of the GPU run share: the GPU, the interpreters, the folders, and how programs are run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqexport.runtimes.nvidia import gpus

SOURCE = Path(__file__).resolve().parents[2]
"""The checkout, if this is one; the tests are only there."""

DTYPES = ("fp32", "fp16")
"""In which engines are built and verified."""

TAIL = 600
"""Characters of a program's output that an error quotes."""


class StepFailed(Exception):
    """A step found something wrong; the text says what."""


class LeftOut(Exception):
    """A step cannot run here; the text says what is missing."""


@dataclass(frozen=True)
class Gpu:
    """``capability`` as CUDA numbers it: ``90`` is compute capability 9.0."""

    name: str
    capability: str


@dataclass(frozen=True)
class Setting:
    """Of one run.

    Attributes:
        work: keeps what is made once: libraries, checkpoints, bundles, logs and results.
        tensorrt_python: an interpreter that has ``tensorrt``; ``tensorrt_path`` is its PYTHONPATH, None: as here.
        build_flags: added to every ``seqexport build``; ``plugin_flags`` to ``seqexport plugins build``.
        sdists: a folder with the source distributions of mamba_ssm and causal-conv1d.
        models: names of models to use, empty: all; ``bundles``: given instead of the built-in ones.
        dtypes: in which engines are built and verified.
        jobs: programs that may use the GPU at the same time where nothing is timed.
        timeout: seconds after which a program is ended, and what it was for has failed.
    """

    gpu: Gpu
    work: Path
    tensorrt_python: str = sys.executable
    tensorrt_path: str | None = None
    build_flags: tuple[str, ...] = ()
    plugin_flags: tuple[str, ...] = ()
    sdists: Path | None = None
    models: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = DTYPES
    bundles: tuple[Path, ...] = ()
    jobs: int = 1
    timeout: float = 560

    @property
    def peers(self) -> Path:
        """Where mamba_ssm and causal-conv1d are installed."""
        return self.work / "peers"

    def wants(self, model: str) -> bool:
        return not self.models or model in self.models

    def run(
        self,
        command: Sequence[object],
        *,
        log: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        allowed: Sequence[int] = (0,),
    ) -> str:
        """Run a program with its output in ``logs/<log>.txt``; gives what it printed to stdout.

        Raises:
            StepFailed: it ended with a code that is not ``allowed``, or not in time; with the end of its output.
        """
        program = [str(part) for part in command]
        file = self.work / "logs" / f"{log}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **(env or {})}
        with file.open("w") as errors:
            try:
                done = subprocess.run(
                    program,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    encoding="utf-8",
                    errors="replace",
                    timeout=self.timeout,
                    env=environment,
                    cwd=cwd,
                    check=False,
                )
                output, code = done.stdout, done.returncode
            except subprocess.TimeoutExpired as error:
                output, code = (error.stdout or b"").decode(errors="replace"), None
            except OSError as error:
                raise StepFailed(f"{program[0]}: cannot be started ({error.strerror})") from error
        with file.open("a", encoding="utf-8") as whole:
            whole.write(output)
        if code not in allowed:
            ending = f"not done after {self.timeout:.0f} s" if code is None else f"exit code {code}"
            raise StepFailed(f"{log}: {ending}: {_tail(file)} (all of it: {file})")
        return output

    def torch(
        self, module: str, *arguments: object, log: str, with_peers: bool = False, threads: int | None = None
    ) -> str:
        """Run a module of seqexport in this interpreter, which has PyTorch; ``threads``: of the CPU, default: all."""
        path = [str(self.peers)] if with_peers else []
        path += [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
        env = {"PYTHONPATH": os.pathsep.join(path)} if path else {}
        env |= {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        return self.run([sys.executable, "-m", f"seqexport.{module}", *arguments], log=log, env=env)

    def tensorrt(self, module: str, *arguments: object, log: str, allowed: Sequence[int] = (0,)) -> str:
        """Run a module of seqexport in the interpreter that has TensorRT; this one's programs are on its PATH."""
        programs = [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
        env = {"PATH": os.pathsep.join(programs)}
        env |= {} if self.tensorrt_path is None else {"PYTHONPATH": self.tensorrt_path}
        return self.run(
            [self.tensorrt_python, "-m", f"seqexport.{module}", *arguments], log=log, env=env, allowed=allowed
        )

    def require_tensorrt(self) -> None:
        """Raises LeftOut: the interpreter that should have TensorRT has none."""
        env = {} if self.tensorrt_path is None else {"PYTHONPATH": self.tensorrt_path}
        try:
            self.run([self.tensorrt_python, "-c", "import tensorrt"], log="import-tensorrt", env=env)
        except StepFailed as failure:
            raise LeftOut(f"no TensorRT in {self.tensorrt_python}; give --tensorrt-python ({failure})") from failure


def _tail(file: Path) -> str:
    return " ".join(file.read_text(errors="replace")[-TAIL:].split()) or "no output"


def find_gpu() -> Gpu:
    """The first GPU.

    Raises:
        UserError: there is none.
    """
    name, capability = gpus("compute_cap")[0]
    return Gpu(name, capability.replace(".", ""))
