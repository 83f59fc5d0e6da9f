"""What is to be closed when done: models, sessions, servers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar

from typing_extensions import Self

from seqexport.plugins.errors import UserError


class Closing(ABC):
    """Something to close when done, or to use in a ``with`` statement."""

    closed = False
    if_closed: ClassVar[str] = "this model is closed; load it again"

    def check_open(self) -> None:
        """Raises UserError: it is closed."""
        if self.closed:
            raise UserError(self.if_closed)

    def close(self) -> None:
        """Give back what it holds; once more is nothing. It cannot be used afterwards."""
        if not self.closed:
            self.closed = True
            self._close()

    @abstractmethod
    def _close(self) -> None:
        """Give back what it holds, once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
