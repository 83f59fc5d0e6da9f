"""One attack: a folder with something hostile in it, a command that meets it, and what may not come of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SECRET = "the launch code is 7f3a"
MEMORY = 1 << 30
"""Bytes of address space that a command may take beyond what is imported; the bundles are of 2 MB."""

OUTPUT = "out"
WRONG = re.compile(
    r"Traceback \(most recent|panicked at|unforeseen |out of memory|bad_alloc|Fatal Python|terminate called"
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Attack:
    """What is run in the folder ``work`` of a case.

    Attributes:
        name: says what was done, for the report.
        arguments: of ``seqexport``.
        stdout: a device instead of a file.
        leave: the working folder is deleted before the command begins.
        environment: beside the usual.
        program: what is run.
        seconds: that it may compute, or wait without computing.
    """

    name: str
    arguments: tuple[str, ...]
    stdout: str | None = None
    leave: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    program: str = "seqexport.exporter.cli:main"
    seconds: int = 10


class Case:
    """A folder of one attack: ``work``, in which the command runs, and ``outside``, which nothing may touch."""

    def __init__(self, root: Path) -> None:
        self.root, self.work, self.outside = root, root / "work", root / "outside"
        for folder in (self.work, self.outside, root / "home"):
            folder.mkdir(parents=True)
        self.secret = self.outside / "secret"
        self.secret.write_text(SECRET)

    def paths(self) -> set[str]:
        """Everything in the folder, by name."""
        return {os.path.join(top, name) for top, *names in os.walk(self.root) for name in (*names[0], *names[1])}


class Target:
    """The process that attacks are run in."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def faults(self, attack: Attack, case: Case) -> list[str]:
        """Run an attack; what was wrong about how it ended."""
        out, err = (case.root.with_name(f"{case.root.name}.{name}") for name in ("out", "err"))
        before = case.paths()
        ended = self._run(attack, case, attack.stdout or str(out), str(err))
        said = [file.read_text(errors="replace") if file.is_file() else "" for file in (out, err)]
        for file in (out, err):
            file.unlink(missing_ok=True)
        return list(_faults(attack, case, ended, said, case.paths() - before))

    def _run(self, attack: Attack, case: Case, out: str, err: str) -> dict[str, int]:
        asked = {
            "arguments": attack.arguments,
            "folder": str(case.work),
            "stdout": out,
            "stderr": err,
            "memory": MEMORY,
            "leave": attack.leave,
            "program": attack.program,
            "seconds": attack.seconds,
            "environment": {"HOME": str(case.root / "home"), "SEQEXPORT_TRACEBACK": "1", **attack.environment},
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer: dict[str, int] = json.loads(self._process.stdout.readline())
        return answer


def _faults(attack: Attack, case: Case, ended: dict[str, int], said: Sequence[str], made: set[str]) -> Iterator[str]:
    out, err = said
    if ended["hung"]:
        yield "hangs"
    elif ended["code"] not in (0, 1, 2):
        yield f"ends with {ended['code']}"
    if wrong := WRONG.search(out + err):
        yield f"says {wrong[0]!r}: {err[-1500:]}"
    elif ended["code"] == 2 and not (err.count("error: ") >= 1 or err.startswith("Usage")):
        yield f"says nothing: {err[-500:]!r}"
    if SECRET in out + err:
        yield "tells what lies outside"
    if attack.arguments[0] != "generate" and CONTROL.search(out + err):
        yield f"control characters: {CONTROL.search(out + err)!r}"
    if case.secret.read_text() != SECRET or len(list(case.outside.iterdir())) != 1:
        yield "wrote outside"
    output = str(case.work / OUTPUT)
    litter = [path for path in made if ended["code"] or not (path == output or path.startswith(output + os.sep))]
    if litter:
        yield f"litter: {sorted(litter)[:3]}"
    for path in made:
        if os.path.isfile(path) and os.path.getsize(path) < 1 << 20 and SECRET.encode() in Path(path).read_bytes():
            yield f"copied what lies outside to {path}"


@contextmanager
def target(*modules: str, home: Path) -> Iterator[Target]:
    """A process that has imported modules; what these write into the user's home meanwhile goes to ``home``."""
    command = [sys.executable, "-m", "tests.attacks.child", *modules]
    settings = {"HOME": str(home), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | settings, cwd=root
    ) as process:
        try:
            yield Target(process)
        finally:
            process.kill()


def linked_copy(source: Path, to: Path) -> None:
    """A copy whose files are other names of the same ones; who changes one, replaces it."""
    shutil.copytree(source, to, copy_function=os.link)


def put(file: Path, data: bytes) -> None:
    """Replace a file."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)
