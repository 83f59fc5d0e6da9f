"""What seqexport publishes, each with how it is written and what a reader of it sees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from seqexport.plugins import exchange, files, install, library, locks, publish
from seqexport.plugins.reading import sha256
from seqexport.runtimes import session_file
from seqexport.runtimes.bundle import MANIFEST, MODEL, Bundle
from seqexport.runtimes.manifest import Manifest, parse_manifest
from seqexport.runtimes.output import write_json
from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.snapshot import RECENT, Snapshot
from seqexport.runtimes.steady import steady
from seqexport.runtimes.trt import record

MODULES = (exchange, files, install, locks, publish, record, session_file)
"""Each line of these is a point at which a writer may be killed."""

DESCRIBED = Path(__file__).parent.parent / "runtimes" / "manifest_version_1.json"


class Broken(AssertionError):
    """A reader saw half of something."""


@dataclass(frozen=True)
class Output:
    """One kind of output below a folder.

    Attributes:
        write: writes version 0, 1, ... of it, as the product does.
        read: the version that is there, checked whole; None: nothing is.
        one_step: whether something always is, once there was.
    """

    name: str
    write: Callable[[Path, int], None]
    read: Callable[[Path], int | None]
    one_step: bool = True


def _write_bundle(folder: Path, version: int) -> None:
    texts = {MODEL: f"graph {version}" * 99, f"{MODEL}.data": f"weights {version}" * 99}
    with publish.claimed(folder / "out") as claim, claim.folder(replaces=list(texts), last=MANIFEST) as new:
        for name, text in texts.items():
            (new / name).write_text(text)
        hashes = {name: sha256(new / name) for name in texts}
        (new / MANIFEST).write_text(json.dumps({"version": version, "files": hashes}))


@steady
def _read_folder(folder: Any) -> int | None:
    out = Path(folder)
    if not (out / MANIFEST).exists():
        return None
    manifest = json.loads((out / MANIFEST).read_bytes())
    for name, digest in manifest["files"].items():
        if sha256(out / name) != digest:
            raise Broken(f"{name} is not of version {manifest['version']}")
    return int(manifest["version"])


def _read_bundle(folder: Path) -> int | None:
    return _read_folder(folder / "out")


@contextmanager
def _patched(module: Any, name: str, value: Any) -> Any:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _write_with_renames(folder: Path, version: int) -> None:
    with _patched(exchange, "_renameat2", lambda: None):
        _write_bundle(folder, version)


def _write_inside(folder: Path, version: int) -> None:
    (folder / "out").mkdir(exist_ok=True)
    with _patched(publish, "is_mount", lambda path: True):
        _write_bundle(folder, version)


def _bundle(folder: Path) -> Bundle:
    manifest: Manifest = parse_manifest(DESCRIBED.read_bytes())
    source = msgspec.structs.replace(manifest.source, weights="0" * 64)
    return Bundle(folder, msgspec.structs.replace(manifest, source=source, files={MODEL: "0" * 64}))


def _write_session(folder: Path, version: int) -> None:
    bundle = _bundle(folder)
    states = {s.past_name: np.full(s.sizes(1, 3), version, np.float32) for s in bundle.manifest.states}
    logits = np.full((1, bundle.manifest.vocab_size), version, np.float32)
    recent = np.full((1, RECENT), version, np.int64)
    generators = Sampling(seed=version).generators(1)
    snapshot = Snapshot(np.array([3], np.int32), states, logits, recent, Sampling(), generators)
    session_file.write_session(folder / "session", bundle, snapshot)


def _read_session(folder: Path) -> int | None:
    if not (folder / "session").exists():
        return None
    read = session_file.read_session(folder / "session", _bundle(folder))
    return int(read.recent[0, 0])


HERE = record.Platform("Some GPU", "9.0", "10.3.0")


def _write_engine(folder: Path, version: int) -> None:
    plan = f"{version}".encode() * 1000
    profiles: dict[str, record.Profile] = {}
    made = record.EngineRecord(
        1, f"{HERE.engine_name}.plan", hashlib.sha256(plan).hexdigest(), HERE.gpu, HERE.compute_capability,
        HERE.tensorrt, "0", None, "0" * 64, profiles, {}, "today",
    )  # fmt: skip
    record.write_engine(folder / record.FOLDER, memoryview(plan), made)


def _read_engine(folder: Path) -> int | None:
    if not record.engines_of(_bundle(folder)):
        return None
    plan, _ = record.find_engine(_bundle(folder), HERE)
    return int(plan[:1])


def _write_libraries(folder: Path, version: int) -> None:
    compiled = {name: folder / f"compiled-{name}" for name in ("tensorrt", "onnxruntime")}
    for name, file in compiled.items():
        file.write_text(f"{version} of {name}")
    try:
        install.install(folder / "plugins", compiled, {name: {} for name in compiled})
    finally:
        for file in compiled.values():
            file.unlink()


def _read_libraries(folder: Path) -> int | None:
    before = library.built(folder / "plugins")
    if not before:
        return None
    try:
        versions = {built.path.read_text()[:1] for built in before.values() if not built.fault}
        if len(versions) != 1:
            raise Broken(f"libraries of versions {versions}")
    except (OSError, Broken):
        if library.built(folder / "plugins") == before:
            raise
        return _read_libraries(folder)
    return int(versions.pop())


def _write_result(folder: Path, version: int) -> None:
    write_json(folder / "a" / "result.json", {"version": version, "points": [version] * 500})


def _read_result(folder: Path) -> int | None:
    file = folder / "a" / "result.json"
    if not file.exists():
        return None
    result = json.loads(file.read_bytes())
    if set(result["points"]) != {result["version"]}:
        raise Broken("a result of two versions")
    return int(result["version"])


OUTPUTS = (
    Output("bundle", _write_bundle, _read_bundle),
    Output("bundle by renames", _write_with_renames, _read_bundle, one_step=False),
    Output("bundle inside a mount point", _write_inside, _read_bundle, one_step=False),
    Output("session", _write_session, _read_session),
    Output("engine", _write_engine, _read_engine),
    Output("libraries", _write_libraries, _read_libraries),
    Output("result", _write_result, _read_result),
)
