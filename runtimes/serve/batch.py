"""The running batch: rows that come and go between two steps."""

from __future__ import annotations

from collections.abc import Mapping

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

    def join(self, key: int, other: Session, row: int, soon: int = 0) -> None:
        """A row of another session goes on here; ``soon``: so many more will come."""
        session = self._session
        if session is None or len(self._places) == session.batch:
            session = self._resize(min(power_of_two(len(self._places) + 1 + soon), self._most))
        place = min(set(range(session.batch)) - set(self._places.values()))
        session.copy_row(place, other, row)
        self._places[key] = place

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
            for key, place in self._places.items():
                self._session.copy_row(place, before, places[key])
            before.close()
        return self._session

    def clear(self) -> None:
        """Forget all rows, and close their session."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._places.clear()


def power_of_two(rows: int) -> int:
    """The smallest power of two that is at least ``rows``."""
    return 1 << (rows - 1).bit_length()
