"""Sessions that clients go on with, call after call: in memory as far as it is allowed, the others in files."""

from __future__ import annotations

import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.closing import Closing
from seqexport.runtimes.serve.logs import tell
from seqexport.runtimes.session_file import read_session, stored_tokens, write_session
from seqexport.runtimes.snapshot import Snapshot

NAME = re.compile(r"[A-Za-z0-9_-]{22}")
SUFFIX = ".safetensors"
MOST = 10_000


class Unknown(Exception):
    """There is no such session, or no more."""


class InUse(Exception):
    """Another request goes on with it at this moment."""


class Sessions(Closing):
    """By names that cannot be guessed. The least recently used leave memory first, and the store where there are MOST.

    From any thread.

    Args:
        max_bytes: of those in memory.
        folder: where the others are, and all of them when it closes; those that it has are found again. None: those
            that have no room in memory are forgotten.

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(self, bundle: Bundle, max_bytes: int, folder: Path | None = None) -> None:
        self._bundle, self._max_bytes, self._folder = bundle, max_bytes, folder
        self._held: OrderedDict[str, Snapshot | None] = OrderedDict()
        self._taken: set[str] = set()
        self._lock = threading.RLock()
        self.nbytes = 0
        if folder is not None:
            self._spilled = OrderedDict.fromkeys(names_in(folder, [SUFFIX]))
        else:
            self._spilled = OrderedDict[str, None]()

    def create(self) -> str:
        """The name of a new session, which is empty."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._held[name] = None
            self._forget_more_than_most()
        return name

    def take(self, name: str) -> Snapshot | None:
        """A session to go on with, None while it is empty; others wait until ``give``.

        Raises:
            Unknown: there is none, or its file is damaged or of another model.
            InUse: it was taken already.
        """
        with self._lock:
            if name in self._taken:
                raise InUse
            if name not in self._held and name not in self._spilled:
                raise Unknown
            session = self._read(name) if name in self._spilled else self._held[name]
            self._taken.add(name)
            return session

    def tokens(self, name: str) -> int:
        """Those that a session has read and given; while it is taken, without what is to come.

        Raises:
            Unknown: there is none, or its file is damaged.
        """
        with self._lock:
            if name in self._held:
                session = self._held[name]
                return 0 if session is None else session.position
            if name not in self._spilled:
                raise Unknown
        return self._stored_tokens(name)

    def _stored_tokens(self, name: str) -> int:
        try:
            return stored_tokens(self._file(name))
        except UserError as error:
            raise Unknown from error

    def give(self, name: str, session: Snapshot | None) -> None:
        """What was taken, as it is now. It stays deleted where it was deleted meanwhile."""
        with self._lock:
            self._taken.discard(name)
            if name in self._held:
                self._put(name, session)

    def delete(self, name: str) -> None:
        """Raises Unknown: there is no such session."""
        with self._lock:
            if name not in self._held and name not in self._spilled:
                raise Unknown
            self._forget(name)

    def _close(self) -> None:
        """Write all that are in memory to the folder."""
        with self._lock:
            for name in list(self._held):
                self._spill(name)

    def _put(self, name: str, session: Snapshot | None) -> None:
        self._drop(name)
        self._held[name] = session
        self.nbytes += _size(session)
        for other in [each for each in self._held if each not in self._taken]:
            if self.nbytes > self._max_bytes and self._held[other] is not None:
                self._spill(other)

    def _spill(self, name: str) -> None:
        """From memory to its file; where there is no folder, or it cannot be written, it is forgotten."""
        session = self._drop(name)
        if self._folder is None or session is None:
            return
        try:
            write_session(self._file(name), self._bundle, session)
            self._spilled[name] = None
        except UserError as error:
            tell("a session is lost", reason=str(error))

    def _drop(self, name: str) -> Snapshot | None:
        """From memory."""
        session = self._held.pop(name, None)
        self.nbytes -= _size(session)
        return session

    def _read(self, name: str) -> Snapshot:
        del self._spilled[name]
        try:
            session = read_session(self._file(name), self._bundle)
        except UserError as error:
            tell("a session is lost", reason=str(error))
            raise Unknown from error
        self._held[name] = session
        self.nbytes += _size(session)
        return session

    def _forget(self, name: str) -> None:
        self._drop(name)
        self._spilled.pop(name, None)
        if self._folder is not None:
            with suppress(OSError):
                self._file(name).unlink(missing_ok=True)

    def _forget_more_than_most(self) -> None:
        for name in [*self._spilled, *self._held][: max(0, len(self._spilled) + len(self._held) - MOST)]:
            self._forget(name)

    def _file(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}{SUFFIX}"


def names_in(folder: Path, suffixes: Sequence[str]) -> list[str]:
    """Of the sessions that have files of these kinds in a folder, which is made if need be; the oldest first."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = [file for file in folder.iterdir() if file.suffix in suffixes and NAME.fullmatch(file.stem)]
        files.sort(key=_age)
    except OSError as error:
        raise UserError(f"{folder}: cannot hold sessions ({error.strerror}); choose another folder") from error
    return list(dict.fromkeys(file.stem for file in files))


def _age(file: Path) -> float:
    """When it was written; one that is gone meanwhile, never."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(session: Snapshot | None) -> int:
    return 0 if session is None else session.nbytes
