"""Stands in for the command line and does what no command may, by its argument: each is to be noticed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

HARM: dict[str, Callable[[], object]] = {
    "raise": lambda: {}["x"],
    "die": os.abort,
    "hang": lambda: time.sleep(60),
    "compute": lambda: [0 for _ in iter(int, 1)],
    "say nothing": lambda: sys.exit(2),
    "obey": lambda: print("\x1b[2J"),
    "tell": lambda: print(Path("../outside/secret").read_text()),
    "litter": lambda: Path("litter").touch(),
    "write": lambda: Path("../outside/more").touch(),
    "take": lambda: bytearray(1 << 33),
    "nothing": lambda: None,
}


def main() -> None:
    """Do it, and end as a command does that has done well."""
    HARM[sys.argv[1]]()
    sys.exit(0)
