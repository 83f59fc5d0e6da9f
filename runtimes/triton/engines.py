"""What Triton runs of a bundle: its graph in ONNX Runtime, or an engine in TensorRT, each with our ops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import MODEL, WEIGHTS, Bundle
from seqexport.runtimes.triton.config import Device, EngineFile, Sizes
from seqexport.runtimes.trt.record import FOLDER, EngineRecord, engines_of, read_plan

TAG, ORT = "26.07-py3", "1.27"
"""The release of Triton that repositories are for, and its ONNX Runtime."""

PLAN = "model.plan"
LONGEST_CHUNK = 512
USUAL = Sizes(max_batch=8, max_tokens=4096, chunk=LONGEST_CHUNK)


@dataclass(frozen=True)
class Packed:
    """What the engine's version has in its folder.

    Attributes:
        runs: what Triton runs of it.
        copies: files by the name that they get there.
        written: contents of others.
        preload: the name of the library that Triton's process has to have before it reads the engine.
    """

    runs: EngineFile
    sizes: Sizes
    copies: Mapping[str, Path]
    written: Mapping[str, bytes]
    preload: str | None = None


def ort_engine(bundle: Bundle, sees: str, device: Device, sizes: Sizes, *, plugins: bool) -> Packed:
    """The graph; ``sees``: its folder's path as Triton sees it.

    Raises:
        UserError: Triton's ONNX Runtime does not run it.
    """
    manifest = bundle.manifest
    attends = manifest.caches_in_place and any(spec.grows for spec in manifest.states)
    if (manifest.target == "ort" and attends) or manifest.opset >= 27:
        raise UserError(
            f"{bundle.path}: needs ONNX Runtime 1.32 or newer, and Triton {TAG} has {ORT}; export with "
            "`target='portable'` and `opset=20`"
        )
    built = library.find("onnxruntime") if plugins and manifest.ops else None
    usable = built is not None and (device == "cpu" or bool(built.built_for.get("cuda")))
    if manifest.target == "tensorrt" and not usable:
        raise UserError(
            f"{bundle.path}: target tensorrt has no function bodies, so ONNX Runtime needs the library of our ops, "
            f"which is not built for {device}; build it: {library.BUILD}, or export with `target='portable'`"
        )
    copies = {name: bundle.path / name for name in (MODEL, WEIGHTS) if name in manifest.files}
    if built is None or not usable:
        return Packed(EngineFile("onnxruntime", MODEL), sizes, copies, {})
    name = library.FILES["onnxruntime"]
    return Packed(EngineFile("onnxruntime", MODEL, f"{sees}/{name}"), sizes, {**copies, name: built.path}, {})


def trt_engine(bundle: Bundle, name: str | None, max_batch: int | None, max_tokens: int | None) -> Packed:
    """An engine that the bundle has.

    Args:
        name: of its plan, without ``.plan``; None: the only one.
        max_batch, max_tokens: None: as much as it takes, and ``USUAL``.

    Raises:
        UserError: there is none, several, or none of that name; it takes less than is asked; or the plugins that it was
            built with are not here.
    """
    record = _record(bundle, name)
    largest = {axis: _largest(bundle, record, axis) for axis in ("batch", "seq", "max_len")}
    batch = max_batch or largest["batch"]
    tokens = max_tokens or min(USUAL.max_tokens, largest["max_len"])
    for option, asked, most in (("max_batch", batch, largest["batch"]), ("max_tokens", tokens, largest["max_len"])):
        if asked > most:
            raise UserError(f"`{option}` {asked}: {record.plan} was built for {most}; give less, or build another")
    copies, preload = dict[str, Path](), None
    if record.plugins is not None:
        built, preload = library.require("tensorrt"), library.FILES["tensorrt"]
        if built.sha256 != record.plugins.sha256:
            raise UserError(f"{record.plan} was built with other plugins than {built.path}: build it again")
        copies[preload] = built.path
    runs = EngineFile("tensorrt", PLAN, profiles=len(record.profiles))
    sizes = Sizes(batch, tokens, min(LONGEST_CHUNK, largest["seq"]))
    return Packed(runs, sizes, copies, {PLAN: read_plan(bundle, record)}, preload)


def _record(bundle: Bundle, name: str | None) -> EngineRecord:
    records = {record.plan.removesuffix(".plan"): record for record in engines_of(bundle)}
    if not records:
        raise UserError(f"{bundle.path} has no engine; build one with: seqexport build {bundle.path}")
    if (name is None and len(records) > 1) or (name is not None and name not in records):
        raise UserError(f"`engine` {name}: {bundle.path / FOLDER} has {', '.join(records)}; name one of them")
    return records[name] if name is not None else next(iter(records.values()))


def _largest(bundle: Bundle, record: EngineRecord, axis: str) -> int:
    """The largest size of an axis that any profile takes; where no input has it, what a graph may ever have."""
    sizes = [
        profile[spec.name][2][spec.shape.index(axis)]
        for profile in record.profiles.values()
        for spec in bundle.manifest.inputs
        if axis in spec.shape
    ]
    return max(sizes, default=2**31 - 1)
