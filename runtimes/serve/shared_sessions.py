"""Sessions of a folder that several processes serve: each goes on where the one before it ended, whoever served it."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seqexport.plugins.errors import UserError
from seqexport.plugins.locks import Lock, Taken
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.output import write_output
from seqexport.runtimes.serve.sessions import MOST, NAME, SUFFIX, InUse, Sessions, Unknown, names_in
from seqexport.runtimes.session_file import checksum, write_session
from seqexport.runtimes.snapshot import Snapshot

EMPTY, LOCK = ".empty", ".lock"
"""Beside a session's file: in place of it, of one that has no text yet; and while a process goes on with it."""


@dataclass
class _Visited:
    """A session that was taken: its lock, what it is, and its file's checksum; None where it is empty."""

    lock: Lock
    session: Snapshot | None
    checksum: bytes | None


class SharedSessions(Sessions):
    """What a session is after an answer is on the disk before the answer ends, so that a killed process loses none.

    One process at a time goes on with a session, by a lock that the system frees when the process dies. Those in memory
    are copies, used where the file is still what was written or read here. The folder's file system must have locks.

    Args:
        folder: the same in all processes.

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(self, bundle: Bundle, max_bytes: int, folder: Path) -> None:
        super().__init__(bundle, max_bytes, folder)
        self._folder: Path = folder
        self._checksums: dict[str, bytes | None] = {}
        self._visited: dict[str, _Visited] = {}

    def create(self) -> str:
        """The name of a new session, which is empty.

        Raises:
            UserError: the folder cannot be written.
        """
        name = secrets.token_urlsafe(16)
        write_output(self._beside(name, EMPTY), b"")
        names = names_in(self._folder, [SUFFIX, EMPTY])
        for oldest in names[: max(0, len(names) - MOST)]:
            with suppress(Unknown, InUse):
                self.delete(oldest)
        return name

    def take(self, name: str) -> Snapshot | None:
        """As of ``Sessions``; InUse where another process has taken it."""
        lock = self._locked(name)
        try:
            with self._lock:
                found = self._look(name)
                session = super().take(name)
        except BaseException:
            lock.release()
            raise
        self._visited[name] = _Visited(lock, session, found)
        return session

    def tokens(self, name: str) -> int:
        """As of ``Sessions``, whichever process has taken it."""
        return 0 if self._found(name) is None else self._stored_tokens(name)

    def give(self, name: str, session: Snapshot | None) -> None:
        """As of ``Sessions``; once it returns, other processes find the session so.

        Raises:
            UserError: it cannot be written; it is as it was before.
        """
        visited = self._visited.pop(name)
        try:
            if session is not None and session is not visited.session:
                visited.checksum = write_session(self._file(name), self._bundle, session)
                visited.session = session
                with suppress(OSError):  # the file is what counts
                    self._beside(name, EMPTY).unlink(missing_ok=True)
        finally:
            with self._lock:
                super().give(name, visited.session)
                if name in self._held:
                    self._checksums[name] = visited.checksum
            visited.lock.release()

    def delete(self, name: str) -> None:
        """Raises Unknown: there is no such session. InUse: it was taken, and not given back."""
        lock = self._locked(name)
        try:
            with self._lock:
                self._forget(name)
        finally:
            lock.release()

    def _locked(self, name: str) -> Lock:
        self._found(name)
        lock = Lock(self._beside(name, LOCK))
        try:
            lock.take(wait=False)
        except Taken as error:
            lock.release()
            raise InUse from error
        except OSError as error:
            lock.release()
            raise UserError(f"{lock.path}: cannot be written ({error.strerror or error})") from error
        return lock

    def _look(self, name: str) -> bytes | None:
        """What tells the session's file from others, and memory freed of what is no more so. Its lock is held."""
        found = self._found(name)
        if name not in self._held or found != self._checksums.get(name, b""):
            self._drop(name)
            if found is None:
                self._held[name] = None
            else:
                self._spilled[name] = None
        return found

    def _found(self, name: str) -> bytes | None:
        """The checksum of a session's file, None where it is empty; Unknown where there is none."""
        if NAME.fullmatch(name):
            with suppress(FileNotFoundError):
                return checksum(self._file(name))
            if self._beside(name, EMPTY).exists():
                return None
        with self._lock:
            self._drop(name)
        raise Unknown

    def _spill(self, name: str) -> None:
        self._drop(name)  # its file has it

    def _drop(self, name: str) -> Snapshot | None:
        self._checksums.pop(name, None)
        return super()._drop(name)

    def _forget(self, name: str) -> None:
        with suppress(OSError):
            self._beside(name, EMPTY).unlink(missing_ok=True)
        super()._forget(name)

    def _beside(self, name: str, suffix: str) -> Path:
        return self._folder / f"{name}{suffix}"
