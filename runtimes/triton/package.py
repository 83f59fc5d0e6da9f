"""From a bundle to a repository: what the options mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.triton.config import Device, Sizes
from seqexport.runtimes.triton.engines import USUAL, Packed, ort_engine, trt_engine
from seqexport.runtimes.triton.repository import MOUNTED, Repository, seen_engine, write_repository


def package(
    bundle: Bundle,
    output: Path,
    *,
    name: str | None = None,
    backend: Literal["ort", "trt"] = "ort",
    device: Device | None = None,
    engine: str | None = None,
    max_batch: int | None = None,
    max_tokens: int | None = None,
    mounted_at: str = MOUNTED,
    plugins: bool | None = None,
    force: bool = False,
) -> Repository:
    """Write a Triton model repository of a language model's bundle.

    Args:
        output: its folder.
        name: of the model that clients ask; None: the bundle's.
        backend: ``ort`` or ``trt``.
        device: where Triton runs it; None: the CPU, of ``trt`` the GPU.
        engine: of ``trt``: which of the bundle's, by its plan's name; None: the only one.
        max_batch: sequences that run together; None: 8, of ``trt`` the engine's.
        max_tokens: of a prompt and its answer together; None: 4096, or what the bundle holds if that is less.
        mounted_at: the path at which Triton sees the repository.
        plugins: False: the ops' function bodies run, even where the compiled library could.
        force: replace a repository that seqexport wrote.

    Raises:
        UserError: an option does not fit, Triton does not run the bundle, or it cannot be written; nothing was.
    """
    name = bundle.name if name is None else name
    if not mounted_at.startswith("/"):
        raise UserError(f"`mounted_at` {mounted_at!r}: expected a path from the root, as /models")
    if backend == "trt":
        if device == "cpu" or plugins is not None:
            raise UserError(f"`{'device' if device == 'cpu' else 'plugins'}`: an engine of TensorRT has its own")
        return write_repository(
            bundle,
            output,
            name,
            lambda: trt_engine(bundle, engine, max_batch, max_tokens),
            "cuda",
            mounted=mounted_at,
            force=force,
        )
    if engine is not None:
        raise UserError("`engine`: names an engine of `backend='trt'`")
    where, sizes = device or "cpu", _sizes(bundle, max_batch, max_tokens)

    def pack() -> Packed:
        return ort_engine(bundle, seen_engine(name, mounted_at), where, sizes, plugins=plugins is not False)

    return write_repository(bundle, output, name, pack, where, mounted=mounted_at, force=force)


def _sizes(bundle: Bundle, max_batch: int | None, max_tokens: int | None) -> Sizes:
    capacity = bundle.manifest.capacity
    if capacity is not None and (max_tokens or 0) > capacity:
        raise UserError(f"`max_tokens` {max_tokens}: the bundle's capacity is {capacity}{bundle.manifest.or_hold_more}")
    tokens = max_tokens or min(USUAL.max_tokens, capacity or USUAL.max_tokens)
    return replace(USUAL, max_batch=max_batch or USUAL.max_batch, max_tokens=tokens)
