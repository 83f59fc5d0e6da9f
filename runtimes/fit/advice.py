"""What to change where a bundle does not fit a board: each advice with what it leads to."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace

from seqexport.runtimes import units
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.fit.boards import GIB, Board, boards
from seqexport.runtimes.fit.estimate import Fit, Phase, Sizes, estimate, runtime_on, sizes_of
from seqexport.runtimes.trt.record import FOLDER

SMALL_CHUNK = 256
"""Tokens of a call that is still fast."""


def fit_of(bundle: Bundle, board: Board, batch: int = 1, length: int | None = None) -> Fit:
    """Whether a bundle fits a board, and what to change where it does not.

    Args:
        batch: sequences at a time.
        length: tokens that a sequence may have; None: all that the bundle holds, or 2048 where nothing grows.

    Raises:
        UserError: the bundle holds fewer tokens.
    """
    runtime = runtime_on(bundle, board)
    fit = estimate(bundle, board, sizes_of(bundle, runtime, batch, length))
    return replace(fit, advice=tuple(_advice(bundle, fit)))


def _advice(bundle: Bundle, fit: Fit) -> Iterator[str]:
    if not (fit.fits("run") and fit.fits("load")):
        yield from _to_run(bundle, fit)
    if fit.runtime == "TensorRT" and fit.fits("run") and not fit.fits("build"):
        yield from _to_build(bundle, fit)
    if fit.board.runs_tensorrt and fit.runtime == "ONNX Runtime":
        yield "target ort is for ONNX Runtime's CPU: export with --target tensorrt for the GPU"


def _to_run(bundle: Bundle, fit: Fit) -> Iterator[str]:
    """One change at a time, the smallest first."""
    sizes, helps = fit.sizes, _Trial(bundle, fit)
    if fit.runtime == "TensorRT":
        least = replace(sizes, rows=sizes.batch, chunk=min(sizes.chunk, SMALL_CHUNK))
        yield helps.said(f"build for smaller calls: --maxShapes input_ids:{least.rows}x{least.chunk}", least)
    elif sizes.chunk > SMALL_CHUNK:
        yield helps.said(f"read prompts in pieces of {SMALL_CHUNK} tokens", replace(sizes, chunk=SMALL_CHUNK))
    if bundle.manifest.capacity is not None:
        yield from _less_capacity(bundle, fit, helps)
    if sizes.batch > 1:
        yield helps.said("one sequence at a time: --batch 1", replace(sizes, batch=1, rows=min(sizes.rows, 4)))
    if fit.dtype == "float32":
        yield helps.said("export with --dtype fp16", sizes, dtype_bytes=2)
    if fit.board.is_jetson and not fit.fits("load") and fit.fits("run"):
        yield "load it in C++, which maps the engine's file, or with swap"
    yield _larger(bundle, fit, "run")


def _less_capacity(bundle: Bundle, fit: Fit, helps: _Trial) -> Iterator[str]:
    """The largest power of two of tokens that fits, if any does."""
    length = 1 << (fit.sizes.length - 1).bit_length() - 1
    while length >= SMALL_CHUNK:
        less = replace(fit.sizes, length=length, chunk=min(fit.sizes.chunk, length))
        if helps.fits(less):
            yield f"fewer tokens in a sequence: --len {length:,} fits (export with --max-len {length})"
            return
        length //= 2


def _to_build(bundle: Bundle, fit: Fit) -> Iterator[str]:
    missing = fit.needed("build") - fit.board.free_bytes
    if fit.board.is_jetson:
        yield (
            f"swap of {-(-missing // GIB) + 1} GiB while it is built, on an NVMe drive "
            "(https://www.jetson-ai-lab.com/tips_ram-optimization.html)"
        )
    same = [board for board in boards().values() if board.compute_capability == fit.board.compute_capability]
    able = [board for board in same if board.is_jetson and estimate(bundle, board, fit.sizes).fits("build")]
    if fit.board.is_jetson and able:
        names = ", ".join(board.name for board in able)
        engines = shlex.quote(str(bundle.path / FOLDER))
        yield f"build it on a board of the same GPU and TensorRT, and copy {engines} from there: {names}"
    if fit.dtype == "float32":
        yield _Trial(bundle, fit).said("export with --dtype fp16", fit.sizes, dtype_bytes=2, phase="build")


def _larger(bundle: Bundle, fit: Fit, phase: Phase) -> str:
    """The smallest board of its kind that holds it as it is."""
    kin = [board for board in boards().values() if _kind(board) == _kind(fit.board)]
    able = [board for board in kin if estimate(bundle, board, fit.sizes).fits(phase)]
    if not able:
        return "no board of this kind holds it as it is"
    least = min(able, key=lambda board: board.memory_gib)
    return f"as it is, it fits {least.name} and larger"


def _kind(board: Board) -> tuple[bool, bool]:
    return board.shared, board.runs_tensorrt


class _Trial:
    """The same bundle and board in other sizes."""

    def __init__(self, bundle: Bundle, fit: Fit) -> None:
        self.bundle, self.fit = bundle, fit

    def fits(self, sizes: Sizes) -> bool:
        return estimate(self.bundle, self.fit.board, sizes).fits("run")

    def said(self, what: str, sizes: Sizes, *, dtype_bytes: int | None = None, phase: Phase = "run") -> str:
        tried = estimate(self.bundle, self.fit.board, sizes, dtype_bytes)
        fits = "fits" if tried.fits(phase) else "does not fit alone"
        return f"{what}: {units.size(tried.needed(phase))}, {fits}"
