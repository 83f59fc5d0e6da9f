"""A short run of the attacks; a long one is by hand: python -m tests.attacks.kills --seconds 600 --seed 1"""

from __future__ import annotations

import subprocess
import sys


def test_writers_that_are_killed() -> None:
    """In a process of its own, which has one thread and can be forked."""
    command = [sys.executable, "-m", "tests.attacks.kills", "--seconds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    kills, end = done.stdout.split(" ", 1)
    assert int(kills) > 100 and end == "kills, 0 failures\n"
