"""A bundle: the folder that an export writes and every runtime opens.

model.onnx, model.onnx.data   the graph and its weights
seqexport.json                the manifest (manifest.py)
tokenizer.json, ...           the checkpoint's tokenizer, if it has one that can be read
reference.safetensors         recorded inputs, and what the PyTorch original made of them (comparison/reference.py)
engines/                      TensorRT engines built from it
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from seqexport.plugins.errors import UserError
from seqexport.plugins.files import sha256
from seqexport.plugins.publish import INSIDE
from seqexport.runtimes import external_data
from seqexport.runtimes.encoding import readable
from seqexport.runtimes.links import is_inside
from seqexport.runtimes.manifest import FORMAT_VERSION, Manifest, format_version, parse_manifest
from seqexport.runtimes.output import as_json
from seqexport.runtimes.steady import steady

MANIFEST = "seqexport.json"
MEMORY = "memory:"
"""What the name of a source begins with where the model was exported from memory, and no checkpoint is known."""

FACTORY = "factory:"
"""Likewise, where it was made by a function ``package.module:factory``, whose name follows."""

MODEL = "model.onnx"
REFERENCE = "reference.safetensors"
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
                _check_file(folder, name, expected)
    if check_files is True:
        _check_weights(folder, manifest)
    return Bundle(folder, manifest)


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST
    try:
        data = file.read_bytes()
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


def _check_file(folder: Path, name: str, expected: str) -> None:
    file = folder / name
    if not is_inside(folder, name):
        raise BundleError(f"{folder / MANIFEST}: file {name!r} lies outside the bundle; put the file itself into it")
    try:
        actual = sha256(file)
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); copy or export the bundle again") from error
    if actual != expected:
        raise BundleError(
            f"{file}: sha256 {actual[:12]}..., expected {expected[:12]}...; "
            "the file was changed or cut short: copy or export the bundle again"
        )


def _check_weights(folder: Path, manifest: Manifest) -> None:
    """The graph could name any file of the system as the place of its weights."""
    if not (folder / MODEL).is_file():
        return
    for name in sorted(external_data.locations(folder / MODEL)):
        if name not in manifest.files:
            raise BundleError(
                f"{folder / MODEL}: has weights in {name!r}, which {MANIFEST} does not name as a file of the bundle; "
                "export the model again"
            )


def check_destination(path: Path, *, force: bool) -> None:
    """Refuse to replace anything but a bundle, and a bundle only with ``force``.

    Raises:
        BundleError: the path exists and may not be replaced.
    """
    if not path.exists():
        return
    empty = path.is_dir() and all(each.name.startswith(f"{INSIDE}.") for each in path.iterdir())
    is_bundle = (path / MANIFEST).is_file()
    if not empty and not is_bundle:
        raise BundleError(f"{path} exists and is not a bundle; it is left as it is: choose another `output`")
    if is_bundle and not force:
        raise BundleError(f"{path} is already a bundle; take `force=True` to replace it, or choose another `output`")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_bytes(as_json(manifest))
