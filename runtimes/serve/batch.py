"""The running batch: rows that come and go between two steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from seqexport.runtimes.base import Floats, Runner, Session
from seqexport.runtimes.snapshot import Snapshot


class Batch:
    """Rows by a key of the caller's, in a session of the smallest power of two that holds them.

    A step of 64 rows costs many times one of a single row, so that empty places are dear, and a row that comes or goes
    costs a copy of its own states alone; all are copied where the session grows, or shrinks to half when it is three
    quarters empty.

    Args:
        capacity: the most tokens that a row may have; None where states do not grow.
        most: rows.
    """

    def __init__(self, runner: Runner, capacity: int | None, most: int) -> None:
        self._runner, self._capacity, self._most = runner, capacity, most
        self._session: Session | None = None
        self._places: dict[int, int] = {}

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

    def join(self, key: int, other: Session, row: int) -> None:
        """A row of another session goes on here."""
        session = self._session
        if session is None or len(self._places) == session.batch:
            session = self._resize(min(max(1, 2 * self.size), self._most))
        place = min(set(range(session.batch)) - set(self._places.values()))
        session.copy_row(place, other, row)
        self._places[key] = place

    def leave(self, key: int) -> None:
        """A row is gone."""
        place = self._places.pop(key)
        assert self._session is not None
        self._session.empty_row(place)
        if not self._places:
            self._close_session()
        elif 4 * len(self._places) <= self._session.batch:
            self._resize(self._session.batch // 2)

    def row(self, key: int) -> Snapshot:
        """The row as it is now."""
        assert self._session is not None
        return self._session.read_row(self._places[key])

    def logits(self, key: int) -> Floats:
        """Those after the row's last token, float32 [vocab]."""
        assert self._session is not None
        return self._session.logits[self._places[key]]

    @property
    def finite(self) -> bool:
        """Whether the logits of all rows are; those of places without a row count too."""
        return self._session is None or bool(np.isfinite(self._session.logits).all())

    def length(self, key: int) -> int:
        """Tokens of the row."""
        assert self._session is not None
        return int(self._session.lengths[self._places[key]])

    def step(self, tokens: Mapping[int, int]) -> None:
        """Feed one token to each row that is named; the others stay as they are."""
        assert self._session is not None
        fed = np.zeros((self._session.batch, 1), np.int64)
        lens = np.zeros(self._session.batch, np.int32)
        for key, token in tokens.items():
            fed[self._places[key]], lens[self._places[key]] = token, 1
        self._session.prefill(fed, lens)

    def _resize(self, size: int) -> Session:
        before, places = self._session, self._places
        self._session = self._runner.session(size, self._capacity)
        self._places = {key: place for place, key in enumerate(places)}
        if before is not None:
            for key, place in self._places.items():
                self._session.copy_row(place, before, places[key])
            before.close()
        return self._session

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def clear(self) -> None:
        """Forget all rows, and close their session."""
        self._close_session()
        self._places.clear()
