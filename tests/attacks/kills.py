"""Writers that are killed: a reader sees the old or the new, whole, and the next run leaves nothing else.

python -m tests.attacks.kills --seconds 600 --seed 1

First at every line of what publishes, of every kind of output; then at random moments, beside a reader, until the time
is over; last, where there is time for it, exports and builds of plugin libraries that are killed as whole processes.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from tests.attacks.published import MODULES, OUTPUTS, Output
from tests.attacks.whole_processes import kill_commands

LONG = 120.0
"""Seconds from which on whole processes are killed too."""


def run(seconds: float, seed: int) -> list[str]:
    """A line for each kill, empty, and for each failure."""
    start, lines = time.monotonic(), list[str]()
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # a killed process loses no file, a machine would
    with tempfile.TemporaryDirectory() as folder:
        for output in OUTPUTS:
            lines += _named(output, _at_every_line(output, Path(folder) / output.name))
        end, chance = start + seconds * (0.5 if seconds >= LONG else 1), random.Random(seed)
        while time.monotonic() < end:
            output = chance.choice(OUTPUTS)
            lines += _named(output, _at_random(output, Path(folder) / output.name, chance))
        if seconds >= LONG:
            lines += kill_commands(start + seconds, chance, Path(folder))
    return lines


def _named(output: Output, lines: Iterator[str]) -> list[str]:
    return [f"{output.name}: {line}" if line else "" for line in lines]


def _at_every_line(output: Output, folder: Path) -> Iterator[str]:
    folder.mkdir()
    output.write(folder, 0)
    expected, at, over = _names(folder), 0, False
    while not over:
        at += 1
        over = _in_child(lambda point=at: _until_line(point, lambda: output.write(folder, 1)))
        if not over:
            yield ""
        yield from _seen(output, folder, f"killed at line {at}")
        output.write(folder, 0)
        if len(left := _names(folder)) != len(expected):
            yield f"killed at line {at}: then {sorted(left)} are there, expected {sorted(expected)}"


def _at_random(output: Output, folder: Path, chance: random.Random) -> Iterator[str]:
    output.write(folder, 0)
    expected, began = len(_names(folder)), time.monotonic()
    output.write(folder, 1)
    took = time.monotonic() - began
    reader, told = _reader(output, folder)
    for _ in range(20):
        if (writer := os.fork()) == 0:
            _leave(lambda: [output.write(folder, version % 2) for version in range(100)])
        time.sleep(chance.uniform(0, 3 * took))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        yield ""
        yield from _seen(output, folder, "killed at random")
    output.write(folder, 0)
    if len(left := _names(folder)) != expected:
        yield f"killed at random: then {sorted(left)} are there"
    os.kill(reader, signal.SIGKILL)
    os.waitpid(reader, 0)
    if output.one_step and select.select([told], [], [], 0)[0] and (said := os.read(told, 4096)):
        yield f"a reader meanwhile: {said.decode()}"
    os.close(told)


def _reader(output: Output, folder: Path) -> tuple[int, int]:
    """A process that reads again and again, and where it says what it saw that is not whole."""
    told, tell = os.pipe()

    def read() -> None:
        while True:
            for said in _seen(output, folder, "reading"):
                os.write(tell, said.encode())
                return

    if (reader := os.fork()) == 0:
        _leave(read)
    os.close(tell)
    return reader, told


def _seen(output: Output, folder: Path, when: str) -> Iterator[str]:
    try:
        version = output.read(folder)
    except Exception as error:
        yield f"{when}: {type(error).__name__}: {error}"
        return
    if version not in ((0, 1) if output.one_step else (0, 1, None)):
        yield f"{when}: a reader sees {version}"


def _in_child(work: Callable[[], None]) -> bool:
    """Whether it came to its end."""
    if (child := os.fork()) == 0:
        _leave(work)
    return os.waitpid(child, 0)[1] == 0


def _leave(work: Callable[[], Any]) -> None:
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def _until_line(last: int, work: Callable[[], None]) -> None:
    ours, lines = {module.__file__ for module in MODULES}, 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in ours:
            return None
        lines += event == "line"
        if lines == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work()


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    lines = run(given.seconds, given.seed)
    failures = [line for line in lines if line]
    print(*failures, f"{lines.count('')} kills, {len(failures)} failures", sep="\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
