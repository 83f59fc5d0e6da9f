"""A bundle: the folder that an export writes and every runtime opens.

model.onnx, model.onnx.data   the graph and its weights
seqexport.json                the manifest (manifest.py)
tokenizer.json, ...           the checkpoint's tokenizer, if it has one that can be read
reference.safetensors         recorded inputs, and what the PyTorch original made of them (comparison/reference.py)
engines/                      TensorRT engines built from it
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seqexport.plugins.errors import UserError
from seqexport.plugins.publish import INSIDE
from seqexport.plugins.reading import ANY, SETTINGS, WORDS, is_inside, read, regular, sha256
from seqexport.runtimes import external_data, graph_interface
from seqexport.runtimes.encoding import readable
from seqexport.runtimes.manifest import FORMAT_VERSION, Manifest, format_version, parse_manifest
from seqexport.runtimes.output import as_json
from seqexport.runtimes.steady import steady

MANIFEST = "seqexport.json"
MEMORY = "memory:"
"""What the name of a source begins with where the model was exported from memory, and no checkpoint is known."""

FACTORY = "factory:"
"""Likewise, where it was made by a function ``package.module:factory``, whose name follows."""

MODEL = "model.onnx"
WEIGHTS = f"{MODEL}.data"
REFERENCE = "reference.safetensors"
MOST_PROTOBUF, MOST_REFERENCE = 1 << 31, 1 << 33
"""Bytes of a graph and of a reference."""

ROOM = 1 << 32
"""Bytes of weights besides the parameters: tables of positions and the like."""

READ_VERSIONS = range(1, FORMAT_VERSION + 1)


class BundleError(UserError):
    """A folder that is not a bundle, or not a whole one."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Paths are inside its folder, and every file matches its recorded sha256."""

    path: Path
    manifest: Manifest

    @property
    def model(self) -> Path:
        return self.path / MODEL

    @property
    def reference(self) -> Path:
        return self.path / REFERENCE

    def read(self, name: str, most: int) -> bytes:
        """What a file of the bundle holds, ``most`` bytes at most.

        Raises:
            BundleError: it is not the bundle's own, is larger, or cannot be read.
        """
        with _readable(self.path / name):
            return read(self.path / name, most, self.path)

    def check_graph(self) -> None:
        """Hold the graph against the manifest, before a runtime sees it.

        Raises:
            BundleError: its weights lie in a file that is not the bundle's, as a graph can name any of the system; or
                its inputs, outputs, states, vocabulary or dtype are others.
        """
        with _readable(self.model):
            regular(self.model, ANY, self.path)
            for name in sorted(external_data.locations(self.model)):
                if name not in self.manifest.files:
                    raise BundleError(
                        f"{self.model}: has weights in {name!r}, which {MANIFEST} does not name as a file of the "
                        "bundle; export the model again"
                    )
            external_data.check_inside(self.model)
            told = graph_interface.difference(self.model, self.manifest)
        if told:
            raise BundleError(
                f"{self.model} is not the graph that {MANIFEST} describes: {told}; export the model again"
            )

    @property
    def tokenizer(self) -> Path | None:
        """The ``tokenizer.json`` that the checkpoint came with, or that was made of its older files."""
        path = self.path / "tokenizer.json"
        return path if path.name in self.manifest.files else None

    @property
    def name(self) -> str:
        """The folder's; in the hub's cache (models--OWNER--NAME/snapshots/REVISION), the repository's."""
        folder = self.path.resolve()
        named = folder.parents[1].name.split("--")[-1] if folder.parent.name == "snapshots" else folder.name
        return readable(named)


@steady
def open_bundle(path: str | os.PathLike[str], *, check_files: bool | Collection[str] = True) -> Bundle:
    """Open a bundle and check it: its format's version, and each file against its sha256.

    Args:
        check_files: False checks none; names check those of them that the bundle has.

    Raises:
        BundleError: naming the file, what was expected, what came, and what to do.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    names = manifest.files if isinstance(check_files, bool) else check_files
    if check_files:
        for name, expected in manifest.files.items():
            if name in names:
                _check_file(folder, name, expected, _most(name, manifest))
    if check_files is True:
        _check_listed(folder, manifest)
        Bundle(folder, manifest).check_graph()
    return Bundle(folder, manifest)


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST
    try:
        data = read(file, SETTINGS, folder)
    except OSError as error:
        raise BundleError(
            f"{folder} is not a bundle: cannot read {MANIFEST} ({error.strerror}); "
            "make one with: seqexport onnx --model CHECKPOINT -o FOLDER"
        ) from error
    try:
        version = format_version(data)
        if version not in READ_VERSIONS:
            raise BundleError(
                f"{file}: format version {version}, this seqexport reads {READ_VERSIONS.start} to {FORMAT_VERSION}; "
                + ("upgrade seqexport" if version > FORMAT_VERSION else "export the model again")
            )
        return parse_manifest(data)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{file} is damaged: {reason}; export the model again") from error


def _most(name: str, manifest: Manifest) -> int:
    """Bytes that a file may have: a hash of more would be waited for in vain."""
    return {
        MODEL: MOST_PROTOBUF,
        WEIGHTS: 16 * manifest.source.parameters + ROOM,
        REFERENCE: MOST_REFERENCE,
    }.get(name, WORDS)


def _check_file(folder: Path, name: str, expected: str, most: int) -> None:
    file = folder / name
    if not is_inside(folder, name):
        raise BundleError(f"{folder / MANIFEST}: file {name!r} lies outside the bundle; put the file itself into it")
    with _readable(file):
        actual = sha256(file, folder, most)
    if actual != expected:
        raise BundleError(
            f"{file}: sha256 {actual[:12]}..., expected {expected[:12]}...; "
            "the file was changed or cut short: copy or export the bundle again"
        )


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); copy or export the bundle again") from error


def _check_listed(folder: Path, manifest: Manifest) -> None:
    """What is judged and what judges it are checked: neither may be left out of the list."""
    for name in (MODEL, REFERENCE):
        if name not in manifest.files and (name == MODEL or os.path.lexists(folder / name)):
            raise BundleError(
                f"{folder / MANIFEST}: does not name {name} as a file of the bundle, so that its sha256 is not known; "
                "export the model again"
            )


def check_destination(path: Path, *, force: bool) -> None:
    """Refuse to replace anything but a bundle, and a bundle only with ``force``.

    Raises:
        BundleError: the path exists and may not be replaced.
    """
    if not _exists(path):
        return
    empty = path.is_dir() and all(each.name.startswith(f"{INSIDE}.") for each in path.iterdir())
    is_bundle = (path / MANIFEST).is_file()
    if not empty and not is_bundle:
        raise BundleError(f"{path} exists and is not a bundle; it is left as it is: choose another `output`")
    if is_bundle and not force:
        raise BundleError(f"{path} is already a bundle; take `force=True` to replace it, or choose another `output`")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise BundleError(f"{path}: cannot be written ({error.strerror}); choose another `output`") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_bytes(as_json(manifest))
