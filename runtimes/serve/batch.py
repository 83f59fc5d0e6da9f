"""The running batch: rows that come and go between two steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from seqexport.runtimes.base import Floats, Runner, Session
from seqexport.runtimes.snapshot import Snapshot

PATIENCE = 32
"""Steps for which a session may be too large."""


class Batch:
    """Rows by a key of the caller's, in a session of a power of two that holds them.

    A step of 64 rows costs many times one of a single row, so that empty places are dear; a row that comes or goes
    costs a copy of its own states alone, and a session of another size a copy of all, and what its runtime prepares.
    So it grows to what is known to come, and shrinks to half when it was three quarters empty for many steps.

    Args:
        capacity: the most tokens that a row may have; None where states do not grow.
        most: rows.
    """

    def __init__(self, runner: Runner, capacity: int | None, most: int) -> None:
        self._runner, self._capacity, self._most = runner, capacity, most
        self._session: Session | None = None
        self._places: dict[int, int] = {}
        self._roomy = 0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def places(self) -> int:
        """For how many more rows there is room."""
        return self._most - len(self._places)

    @property
    def size(self) -> int:
        """Places of the session, those of no row too."""
        return 0 if self._session is None else self._session.batch

    def join(self, rows: Mapping[int, int], other: Session, soon: int = 0) -> None:
        """Rows of another session, by the keys that they have here, go on here; ``soon``: so many more will come."""
        session, needed = self._session, len(self._places) + len(rows)
        if session is None or needed > session.batch:
            session = self._resize(min(power_of_two(needed + soon), self._most))
        free = sorted(set(range(session.batch)) - set(self._places.values()))
        places = dict(zip(rows, free, strict=False))
        _copy(session, places.values(), other, rows.values())
        self._places |= places

    def leave(self, key: int) -> None:
        """A row is gone."""
        place = self._places.pop(key)
        assert self._session is not None
        self._session.empty_row(place)

    def row(self, key: int) -> Snapshot:
        """The row as it is now."""
        assert self._session is not None
        return self._session.read_row(self._places[key])

    def logits(self, key: int) -> Floats:
        """Those after the row's last token, float32 [vocab]."""
        assert self._session is not None
        return self._session.row_logits(self._places[key])

    def likeliest(self) -> dict[int, int | None]:
        """Each row's likeliest token; None for one whose logits are not all finite."""
        if self._session is None:
            return {}
        tokens, finite = self._session.likeliest()
        places = [token if good else None for token, good in zip(tokens.tolist(), finite.tolist(), strict=True)]
        return {key: places[place] for key, place in self._places.items()}

    def length(self, key: int) -> int:
        """Tokens of the row."""
        assert self._session is not None
        return int(self._session.lengths[self._places[key]])

    def step(self, tokens: Mapping[int, int]) -> None:
        """Feed one token to each row that is named; the others stay as they are."""
        session = self._shrunk()
        fed, lens = np.zeros((session.batch, 1), np.int64), np.zeros(session.batch, np.int32)
        places = [self._places[key] for key in tokens]
        fed[places, 0], lens[places] = list(tokens.values()), 1
        session.feed(fed, lens)

    def _shrunk(self) -> Session:
        """The session, of half its size if that has been enough for long."""
        assert self._session is not None
        self._roomy = self._roomy + 1 if 4 * len(self._places) <= self._session.batch else 0
        return self._session if self._roomy < PATIENCE else self._resize(self._session.batch // 2)

    def _resize(self, size: int) -> Session:
        before, places, self._roomy = self._session, self._places, 0
        self._session = self._runner.session(size, self._capacity)
        self._places = {key: place for place, key in enumerate(places)}
        if before is not None:
            _copy(self._session, self._places.values(), before, places.values())
            before.close()
        return self._session

    def clear(self) -> None:
        """Forget all rows, and close their session."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._places.clear()


def _copy(session: Session, places: Iterable[int], other: Session, rows: Iterable[int]) -> None:
    """Rows of another session to these places; neighbours that stay neighbours in one copy."""
    first: list[list[int]] = []
    for place, row in sorted(zip(places, rows, strict=True)):
        if first and (place, row) == (first[-1][0] + first[-1][2], first[-1][1] + first[-1][2]):
            first[-1][2] += 1
        else:
            first.append([place, row, 1])
    for place, row, count in first:
        session.copy_rows(place, other, row, count)


def power_of_two(rows: int) -> int:
    """The smallest power of two that is at least ``rows``."""
    return 1 << (rows - 1).bit_length()
