"""TensorRT engines of a bundle: where they lie, what their records say, and which of them may run here.

engines/<GPU>-trt<version>.plan   the engine; one that replaces another has a part of its sha256 in its name
engines/<GPU>-trt<version>.json   its record, which names it; a plan that does not match it is never loaded
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from pathlib import Path

import msgspec
from packaging.version import Version

from seqexport.plugins.errors import UserError
from seqexport.plugins.files import remove
from seqexport.plugins.publish import claimed, require_writable
from seqexport.plugins.reading import ANY, SETTINGS, read
from seqexport.runtimes.bundle import MODEL, Bundle
from seqexport.runtimes.output import as_json

FORMAT_VERSION = 1
FOLDER = "engines"
VERSION_COMPATIBLE = "--versionCompatible"
SERIALIZED_PLUGINS = "--setPluginsToSerialize"

Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]
"""The smallest, best and largest shape of each input."""


class Platform(msgspec.Struct, frozen=True):
    """What an engine is built for: the GPU by its name, its compute capability as ``9.0``, TensorRT as ``8.6.0``."""

    gpu: str
    compute_capability: str
    tensorrt: str

    @property
    def engine_name(self) -> str:
        """``nvidia-h100-80gb-hbm3-trt8.6.0``"""
        return f"{re.sub('[^a-z0-9]+', '-', self.gpu.lower()).strip('-')}-trt{self.tensorrt}"

    def __str__(self) -> str:
        return f"{self.gpu}, TensorRT {self.tensorrt}"


class PluginsUsed(msgspec.Struct, frozen=True):
    """The plugin library that an engine was built with: its sha256, and the seqexport that made it."""

    sha256: str
    version: str


class EngineRecord(msgspec.Struct, frozen=True):
    """What stands beside a plan.

    Attributes:
        plan: the plan's file name.
        sha256: of the plan.
        gpu, compute_capability, tensorrt: the platform that it was built on and for.
        seqexport: the version that built it.
        plugins: None where the ops' function bodies were built instead.
        model_sha256: of the graph that it was built from.
        profiles: by name; the order is that of the engine's optimisation profiles.
        flags: the options that shaped it, as they were spelled.
        date: UTC.
        weights_sha256: of the graph's weights file, where that is a file of its own.
    """

    format_version: int
    plan: str
    sha256: str
    gpu: str
    compute_capability: str
    tensorrt: str
    seqexport: str
    plugins: PluginsUsed | None
    model_sha256: str
    profiles: dict[str, Profile]
    flags: dict[str, str]
    date: str
    weights_sha256: str | None = None

    def __post_init__(self) -> None:
        release(self.tensorrt)  # a ValueError is one of the file, where it is read from one

    @property
    def platform(self) -> Platform:
        return Platform(self.gpu, self.compute_capability, self.tensorrt)

    def runs_on(self, here: Platform) -> bool:
        """Whether it was built for this GPU and TensorRT; a version-compatible one runs from its version on."""
        if self.gpu != here.gpu or self.compute_capability != here.compute_capability:
            return False
        own, other = release(self.tensorrt), release(here.tensorrt)
        return own == other or (VERSION_COMPATIBLE in self.flags and own[0] == other[0] and own < other)


def release(tensorrt: str) -> tuple[int, ...]:
    """The three numbers of ``8.6.0.post1`` or, of TensorRT-RTX, ``RTX 1.7.1``.

    Raises:
        ValueError: it is no version.
    """
    return Version(tensorrt.removeprefix("RTX ")).release[:3]


def weights_hash(bundle: Bundle) -> str | None:
    return bundle.manifest.files.get(f"{MODEL}.data")


def engines_of(bundle: Bundle) -> list[EngineRecord]:
    """The records of all engines that a bundle has.

    Raises:
        UserError: one of them is damaged.
    """
    files = sorted((bundle.path / FOLDER).glob("*.json"))
    return [read_record(bundle.path, file, f"build it again with: seqexport build {bundle.path}") for file in files]


def find_engine(bundle: Bundle, here: Platform) -> tuple[bytes, EngineRecord]:
    """The plan of a bundle that runs here, checked against its record, and the record.

    Raises:
        UserError: there is none, or it is damaged, or of another model; with what to do.
    """
    rebuild = f"build one with: seqexport build {bundle.path}"
    record = _record_for(bundle, here, rebuild)
    try:
        return read_plan(bundle, record), record
    except UserError:
        if _record_for(bundle, here, rebuild) == record:
            raise
    return find_engine(bundle, here)  # another was built meanwhile


def _record_for(bundle: Bundle, here: Platform, rebuild: str) -> EngineRecord:
    folder = bundle.path / FOLDER
    exact = folder / f"{here.engine_name}.json"
    others = sorted(file for file in folder.glob("*.json") if file != exact)
    found: list[str] = []
    for file in [exact] if exact.exists() else others:
        record = read_record(bundle.path, file, rebuild)
        if record.runs_on(here):
            return record
        found.append(str(record.platform))
    if exact.exists():
        raise UserError(f"{exact.with_suffix('.plan')}: built for {found[0]}, and this is {here}; {rebuild}")
    there = f"; {folder} has engines for: {' and '.join(found)}" if found else ""
    raise UserError(f"{bundle.path} has no engine for {here}{there}; {rebuild}")


def read_record(folder: Path, file: Path, rebuild: str) -> EngineRecord:
    """A record, below a folder that it must not lead out of, that is whole and of this format.

    Raises:
        UserError: it cannot be read, or is of another format.
    """
    try:
        record = msgspec.json.decode(read(file, SETTINGS, folder), type=EngineRecord)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is no engine's record: {' '.join(str(error).split())}; {rebuild}") from error
    if record.format_version != FORMAT_VERSION or Path(record.plan).name != record.plan:
        raise UserError(f"{file}: format version {record.format_version}, expected {FORMAT_VERSION}; {rebuild}")
    return record


def read_plan(bundle: Bundle, record: EngineRecord) -> bytes:
    """The plan that a record of the bundle's names.

    Raises:
        UserError: it cannot be read, or is not what the record says, or of another model; with what to do.
    """
    rebuild = f"build one with: seqexport build {bundle.path}"
    file = bundle.path / FOLDER / record.plan
    try:
        plan = read(file, ANY, bundle.path)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); {rebuild}") from error
    actual = hashlib.sha256(plan).hexdigest()
    if actual != record.sha256:
        raise UserError(f"{file}: sha256 {actual[:12]}..., its record has {record.sha256[:12]}...; {rebuild}")
    same_weights = record.weights_sha256 in (None, weights_hash(bundle))
    if record.model_sha256 != bundle.manifest.files.get(MODEL) or not same_weights:
        raise UserError(f"{file}: built from another model than {bundle.model}; {rebuild}")
    return plan


def require_writable_engine(plan: Path) -> None:
    """Raises UserError: the plan or its record could not be written."""
    for file in (plan, plan.with_suffix(".json")):
        try:
            require_writable(file)
        except OSError as error:
            raise UserError(f"cannot write {file}: {error.strerror or error}; the engine was not built") from error


def write_engine(folder: Path, plan: memoryview, record: EngineRecord) -> Path:
    """Write a plan and then its record, which until then names the plan that was there; gives the plan's path.

    Raises:
        UserError: one of them cannot be written; what was there is as it was.
    """
    named = folder / record.plan
    entry = named.with_suffix(".json")
    try:
        with claimed(entry) as claim:
            if entry.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            file = named if _plan_named_by(entry) != named.name else _with_hash(named, record.sha256)
            try:
                with claim.file(file.name) as written:
                    written.write_bytes(plan)
                with claim.file() as written:
                    written.write_bytes(as_json(msgspec.structs.replace(record, plan=file.name)))
                _remove_others(named, file.name)
            finally:
                if _plan_named_by(entry) != file.name:
                    remove(file)
    except OSError as error:
        raise UserError(f"cannot write {named}: {error.strerror or error}") from error
    return file


def _with_hash(plan: Path, sha256: str) -> Path:
    return plan.with_name(f"{plan.stem}-{sha256[:12]}{plan.suffix}")


def _plan_named_by(entry: Path) -> str | None:
    try:
        return msgspec.json.decode(read(entry, SETTINGS), type=EngineRecord).plan
    except (OSError, ValueError, RecursionError):
        return None


def _remove_others(named: Path, kept: str | None) -> None:
    """Plans of this record's name that it does not name: replaced, or left by a build that was killed."""
    with_hash = re.compile(re.escape(named.stem) + r"(-[0-9a-f]{12})?" + re.escape(named.suffix))
    for file in named.parent.iterdir():
        if with_hash.fullmatch(file.name) and file.name != kept:
            remove(file)
