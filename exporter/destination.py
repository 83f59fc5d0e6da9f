"""Where an export goes: found out before the long work whether it can be written, and kept from others until it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from seqexport.plugins.errors import UserError
from seqexport.plugins.locks import Taken
from seqexport.plugins.publish import Claim, claimed
from seqexport.runtimes.bundle import MANIFEST, BundleError, check_destination, open_bundle

ENGINES = "engines"


@dataclass(frozen=True)
class Destination:
    """The path as the user wrote it, and the right to write there."""

    path: Path
    force: bool
    claim: Claim

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new folder that becomes the bundle when the block ends well.

        Raises:
            UserError: it cannot be written; nothing is left behind.
        """
        try:
            with self.claim.folder(replaces=self._replaced() if self.force else None, last=MANIFEST) as folder:
                yield folder
        except OSError as error:
            raise _refused(self.path, error) from error

    def _replaced(self) -> list[str]:
        try:
            return [*open_bundle(self.path, check_files=False).manifest.files, ENGINES]
        except BundleError:  # an empty folder, or a bundle of another version
            return []


@contextmanager
def destination(path: Path, *, force: bool) -> Iterator[Destination]:
    """Keeps ``path`` from other exports while the block runs; ``force``: a bundle there may be replaced.

    Raises:
        UserError: it is no bundle's place, cannot be written, or another export is on its way there.
    """
    with ExitStack() as stack:
        try:
            claim = stack.enter_context(claimed(path, wait=False))
            check_destination(path, force=force)
        except Taken as error:
            raise UserError(
                f"{path}: another export is writing it; wait until that has ended, or choose another `output`"
            ) from error
        except OSError as error:
            raise _refused(path, error) from error
        yield Destination(path, force, claim)


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror or error}; nothing was left behind")
