"""Where the compiled plugin libraries are, and whether they may be used.

``seqexport plugins build`` puts them in ``folder()`` with ``plugins.json`` beside them, which says of each library its
file, its sha256, the seqexport that built it and what it was built for. Nothing is loaded that this file does not name.
A library's name has a part of its sha256 in it: while another is built, this file names what is there.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

from seqexport.plugins import folders
from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import SETTINGS, read_json, sha256

FILES = {
    "kernels": "libseqexport_kernels.so",
    "tensorrt": "libseqexport_tensorrt.so",
    "onnxruntime": "libseqexport_ort.so",
}
MANIFEST = "plugins.json"
BUILD = "seqexport plugins build"


@dataclass(frozen=True)
class Built:
    """One library as the manifest describes it.

    Attributes:
        name: ``kernels``, ``tensorrt`` or ``onnxruntime``.
        path: the file.
        sha256: of the file, when it was installed.
        seqexport: the version that built it.
        built_for: ``cuda``, ``architectures``, ``tensorrt`` and ``onnxruntime``, as far as they concern the library.
    """

    name: str
    path: Path
    sha256: str
    seqexport: str
    built_for: dict[str, str]

    @property
    def fault(self) -> str | None:
        """Why this library must not be used, as one line; None if it may."""
        try:
            found = sha256_of(self.path)
        except FileNotFoundError:
            return f"{self.path}: missing, though {MANIFEST} names it; build it again: {BUILD}"
        except OSError as error:
            return f"{self.path}: cannot be read ({error.strerror}); build it again: {BUILD}"
        if self.seqexport != version():
            return f"{self.path}: built by seqexport {self.seqexport}, this is {version()}; build it again: {BUILD}"
        if found != self.sha256:
            return f"{self.path}: damaged, its sha256 is not the one that {MANIFEST} has; build it again: {BUILD}"
        return None


def version() -> str:
    """seqexport's own version; ``source`` where its files are used without being installed."""
    try:
        return installed_version("seqexport")
    except PackageNotFoundError:
        return "source"


def folder() -> Path:
    """Where the libraries live: ``$SEQEXPORT_PLUGINS``, or ``seqexport/plugins`` in the user's data folder.

    Raises:
        UserError: neither variable is set, and there is no such user.
    """
    if named := os.environ.get("SEQEXPORT_PLUGINS"):
        return Path(named).expanduser()
    try:
        return folders.data() / "seqexport" / "plugins"
    except UserError as error:
        raise UserError(f"{error}, or SEQEXPORT_PLUGINS to the folder of the plugin libraries") from error


def built(where: Path | None = None) -> dict[str, Built]:
    """The libraries that ``where`` (default: ``folder()``) has by its manifest, by name; none of them is checked.

    Raises:
        UserError: the manifest cannot be read.
    """
    try:
        where = where or folder()
    except UserError:
        return {}
    manifest = where / MANIFEST
    try:
        entries = read_json(manifest, SETTINGS, where)
        return {name: _entry(where, name, entries[name]) for name in FILES if name in entries}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{manifest}: not a manifest of plugin libraries ({error!r}); build again: {BUILD}") from error


def find(name: str) -> Built | None:
    """The library ``name``, checked; None if it was never built.

    Raises:
        UserError: the file is damaged, missing, or of another seqexport version.
    """
    found = built().get(name)
    while found is not None and (fault := found.fault):
        before, found = found, built().get(name)
        if found == before:  # and no other was built meanwhile
            raise UserError(fault)
    return found


def require(name: str) -> Built:
    """The library ``name``, checked.

    Raises:
        UserError: it was never built, or ``find`` refuses it.
    """
    found = find(name)
    if found is None:
        raise UserError(f"{folder() / FILES[name]}: not built on this machine; build it: {BUILD}")
    return found


def manifest_of(libraries: Iterable[Built]) -> bytes:
    """What the manifest says where there are exactly ``libraries``."""
    entries = {
        b.name: {"file": b.path.name, "sha256": b.sha256, "seqexport": b.seqexport, "built_for": b.built_for}
        for b in libraries
    }
    return (json.dumps(entries, indent=1) + "\n").encode()


def sha256_of(path: Path) -> str:
    """The file's sha256, computed once for each state of the file."""
    status = path.stat()
    return _sha256_of(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _sha256_of(path: Path, modified_ns: int, size: int) -> str:
    return sha256(path, path.parent)


def _entry(where: Path, name: str, entry: dict[str, object]) -> Built:
    built_for = entry["built_for"]
    if not isinstance(built_for, dict) or not all(isinstance(value, str) for value in built_for.values()):
        raise TypeError("built_for")
    file = str(entry["file"])
    if Path(file).name != file:
        raise ValueError(f"{file!r} is no name of a file beside it")
    return Built(name, where / file, str(entry["sha256"]), str(entry["seqexport"]), built_for)
