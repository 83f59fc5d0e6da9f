"""The one way in which anything appears that others may read: whole, in one step, or not at all.

It is written beside its place, brought to the disk, and renamed (a file, a new folder) or exchanged with what was there
(a folder; ``exchange`` says where that is not one step). The output's lock is held meanwhile, which dies with the
process; whoever takes it next finishes or sweeps what a dead one left. A folder that must stay where it is (``.``, a
mount point, one in a folder that cannot be written) is written inside: its files come by their names, ``last`` last.

.NAME.lock, .NAME.new, .NAME.old           beside an output, while it is written
.seqexport.lock, .seqexport.new            inside a folder that stays
.seqexport.todo                            what is to be moved there, once all of it is on the disk
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from seqexport.plugins.exchange import exchange, recover
from seqexport.plugins.files import folders_above, is_mount, remove, sync, sync_names
from seqexport.plugins.locks import Lock
from seqexport.plugins.reading import read_json

INSIDE = ".seqexport"
LONGEST_NAME = 100
"""Of longer names only a hash is in those beside: a file system takes 255 bytes, some 143."""

_claims: set[Claim] = set()


class Claim:
    """The sole right to write an output; ``claimed`` gives it.

    Attributes:
        output: the absolute path, links resolved.
        inside: whether the output is a folder that must stay where it is.
    """

    def __init__(self, output: Path) -> None:
        self.output = output.resolve()
        self.inside = _stays(self.output)
        self._new, self._old, self._todo = (self._beside(kind) for kind in ("new", "old", "todo"))
        self._lock = Lock(self._beside("lock"))
        self._above = ExitStack()

    def _beside(self, kind: str) -> Path:
        if self.inside:
            return self.output / f"{INSIDE}.{kind}"
        name = self.output.name
        if len(os.fsencode(name)) > LONGEST_NAME:
            name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
        return self.output.with_name(f".{name}.{kind}")

    @contextmanager
    def file(self, name: str | None = None) -> Iterator[Path]:
        """Where to write what becomes the output, instead of a file that may be there, when the block ends well.

        Args:
            name: of another file in the output's folder, which the output is to name; None: the output itself.

        Raises:
            OSError: it cannot be written; what was there stays.
        """
        yield self._new
        sync(self._new)
        self._new.replace(self.output.with_name(name or self.output.name))
        sync_names(self.output.parent)

    @contextmanager
    def folder(self, *, replaces: Collection[str] | None, last: str) -> Iterator[Path]:
        """A new folder that becomes the output when the block ends well.

        Args:
            replaces: None: an output that is there must be an empty folder. Else it is replaced whole; or where it
                stays, of what it has, these names.
            last: the file without which readers take it for nothing.

        Raises:
            OSError: it cannot be written, or is there and may not be replaced; what was there stays.
        """
        self._new.mkdir()
        yield self._new
        sync(self._new)
        if self.inside:
            self._plan(replaces or (), last)
            self._move()
        elif replaces is not None and self.output.exists():
            exchange(self._new, self.output, self._old)
        else:
            self._new.rename(self.output)  # which replaces no folder but an empty one
        sync_names(self.output.parent)

    def _plan(self, replaces: Collection[str], last: str) -> None:
        moved = sorted((path.name for path in self._new.iterdir()), key=lambda name: (name == last, name))
        stale = [last, *sorted(set(replaces) - {last})]
        plan = self._new / self._todo.name
        plan.write_text(json.dumps({"remove": stale, "move": moved}))
        sync(plan)
        plan.rename(self._todo)
        sync_names(self.output)

    def _move(self) -> None:
        """What ``_plan`` wrote down, or the rest of it."""
        plan = self._planned()
        waiting = [name for name in plan["move"] if (self._new / name).exists()]
        for name in plan["remove"] if waiting else ():
            if name in waiting or name not in plan["move"]:
                remove(self.output / name)
        for name in waiting:
            (self._new / name).replace(self.output / name)
        sync_names(self.output)
        self._todo.unlink()

    def _planned(self) -> dict[str, list[str]]:
        """The plan, which may lie in a folder of somebody else's: it names nothing outside.

        Raises:
            OSError: it is no plan, or does.
        """
        refused = OSError(errno.EINVAL, "no plan of what to move; remove it", str(self._todo))
        try:
            plan = read_json(self._todo, folder=self.output)
            plan = {key: [str(name) for name in plan[key]] for key in ("remove", "move")}
        except (ValueError, KeyError, TypeError) as error:
            raise refused from error
        outside = any(Path(name).name != name or name in ("", "..") for name in (*plan["remove"], *plan["move"]))
        if outside or self._new.is_symlink():
            raise refused
        return plan

    def take(self, *, wait: bool) -> None:
        """Raises Taken without ``wait``, and OSError: nothing can be written there."""
        _claims.add(self)
        self._above.enter_context(folders_above(self._lock.path))
        self._lock.take(wait=wait)
        self._sweep()

    def _sweep(self) -> None:
        if self.inside:
            if self._todo.exists():
                self._move()
        else:
            recover(self.output, self._old)
        for path in (self._new, self._old):
            if os.path.lexists(path):
                remove(path)

    def give_up(self) -> None:
        """What is not published vanishes."""
        if self._lock.held:
            with suppress(OSError):
                self._sweep()
        self._lock.release()
        self._above.close()
        _claims.discard(self)


def _stays(output: Path) -> bool:
    if not output.is_dir():
        return False
    with suppress(FileNotFoundError):  # this process is in a folder that was removed
        if Path.cwd().is_relative_to(output):
            return True
    return is_mount(output) or not os.access(output.parent, os.W_OK)


@contextmanager
def claimed(output: Path, *, wait: bool = True) -> Iterator[Claim]:
    """The sole right to write an output while the block runs; makes the folders above it.

    Raises:
        Taken: another one has it, and is not waited for.
        OSError: nothing can be written there.
    """
    claim = Claim(output)
    try:
        claim.take(wait=wait)
        yield claim
    finally:
        claim.give_up()


def give_up_all() -> None:
    """For the end of a program that was interrupted: an interrupt may cut off a claim's own end."""
    for claim in list(_claims):
        claim.give_up()


atexit.register(give_up_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_claims.clear)


def write_whole(file: Path, data: bytes | memoryview) -> None:
    """Write a file, and the folders above it; where that fails, what was there stays, and nothing else.

    A link keeps leading to its file, and what is no file, such as ``/dev/stdout``, is written as it is.

    Raises:
        OSError: it cannot be written.
    """
    if _is_device(file):
        file.write_bytes(data)
        return
    with whole_file(file) as written:
        written.write_bytes(data)


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Where to write what becomes ``file`` when the block ends well, and vanishes when it does not."""
    with claimed(file) as claim, claim.file() as written:
        yield written


def require_writable(file: Path) -> None:
    """Find out whether a file could be written; nothing stays of it, nor of the folders made for it.

    Raises:
        OSError: it could not.
    """
    if _is_device(file):
        return
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    with claimed(file):
        pass


def _is_device(file: Path) -> bool:
    return file.exists() and not (file.is_file() or file.is_dir())
