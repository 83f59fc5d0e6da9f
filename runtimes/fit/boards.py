"""The boards and graphics cards that are known by name; what is known of them is data, in boards.json."""

from __future__ import annotations

import difflib
import functools
from pathlib import Path

import msgspec
from packaging.version import Version

from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import Record

FILE = Path(__file__).with_name("boards.json")
OLDEST_GPU = Version("7.2")
"""The oldest compute capability that our plugins compile for."""

GIB = 1 << 30


class Board(Record, frozen=True):
    """One row.

    Attributes:
        memory_gib: that it has, of the GPU where that has its own.
        shared: whether CPU and GPU, or the CPU alone, use it.
        system_gib: an estimate of what is never free.
        compute_capability: of its GPU, as ``8.7``; None where it has none of NVIDIA's.
        bandwidth_gb_s: the maker's peak, in 10^9 bytes a second.
        source, date: where memory and bandwidth are told, and when the row was entered.
    """

    name: str
    title: str
    memory_gib: float
    shared: bool
    system_gib: float
    compute_capability: str | None
    bandwidth_gb_s: float
    source: str
    date: str
    note: str = ""

    @property
    def free_bytes(self) -> int:
        return round((self.memory_gib - self.system_gib) * GIB)

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.bandwidth_gb_s * 1e9

    @property
    def runs_tensorrt(self) -> bool:
        return self.compute_capability is not None and Version(self.compute_capability) >= OLDEST_GPU

    @property
    def is_jetson(self) -> bool:
        return self.shared and self.compute_capability is not None


class _Table(Record, frozen=True):
    about: str
    boards: tuple[Board, ...]


@functools.cache
def boards() -> dict[str, Board]:
    """All, by name."""
    return {board.name: board for board in msgspec.json.decode(FILE.read_bytes(), type=_Table).boards}


def find_board(name: str) -> Board:
    """The board of a name, however it is spelt: ``Orin Nano 8GB`` is ``orin-nano-8gb``.

    Raises:
        UserError: it is not known, with the names that are nearest.
    """
    known = boards()
    plain = "-".join(name.lower().replace("_", " ").replace("-", " ").split())
    for prefix in ("", "jetson-", "nvidia-", "geforce-"):
        if plain.startswith(prefix) and (found := known.get(plain.removeprefix(prefix))):
            return found
    near = difflib.get_close_matches(plain, known, n=4, cutoff=0.5)
    near += [each for each in known if each.startswith(plain) and each not in near]
    raise UserError(f"no board {name!r}: the nearest are {', '.join(near)}" if near else _all(name))


def _all(name: str) -> str:
    return f"no board {name!r}: known are {', '.join(boards())}"
