"""How much memory a bundle takes on a board, in parts, while it runs, is loaded and is built.

What is known is taken as it is: the size of the weights or of an engine that was built, of states and caches, of the
plugins' scratch memory. What is estimated says so, by constants that measurements stand behind:

activations  in TensorRT (7 hidden + widest) elements a token of the largest call; in ONNX Runtime (10 hidden +
             4 widest), and the channels of every SelectiveScan, whose function bodies leave its memory in pieces.
             tests/runtimes/test_fit.py holds the first against engines that ran on an H200, of models that are small,
             and the second against a process of its own.
building     4 times the weights: 3 to 4 were reported of TensorRT's builder, in
             https://github.com/NVIDIA/TensorRT-Edge-LLM/issues/30
runtime      what a process takes before it has a model: libraries, CUDA's context, kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import MODEL, Bundle
from seqexport.runtimes.fit.boards import Board
from seqexport.runtimes.fit.weights import Widths, widths
from seqexport.runtimes.manifest import ITEM_BYTES
from seqexport.runtimes.trt.profiles import LARGEST_BATCH, LONGEST_CHUNK
from seqexport.runtimes.trt.record import FOLDER, engines_of

Runtime = Literal["TensorRT", "ONNX Runtime"]
Phase = Literal["run", "load", "build"]
MIB = 1 << 20

BUILDER_COPIES = 4
RUNTIME_BYTES: dict[Runtime, int] = {"TensorRT": 600 * MIB, "ONNX Runtime": 100 * MIB}
PER_TOKEN: dict[Runtime, tuple[int, int]] = {"TensorRT": (7, 1), "ONNX Runtime": (10, 4)}
"""Elements of activations: so many times the hidden size, and so many times the widest layer."""

SCRATCH = {"CausalAttention": 8 * MIB, "Experts": 128 * MIB, "Linear": 32 * MIB, "SelectiveScan": 8 * MIB,
           "SsdScan": 64 * MIB}  # fmt: skip
"""Of a plugin, at most; TensorRT shares it among layers. The ops' descriptions, which are compiled, say the same, and
tests/ops/test_descriptions.py compares them."""


@dataclass(frozen=True)
class Sizes:
    """What is asked for.

    Attributes:
        batch: sequences at a time.
        length: tokens that one may have.
        chunk: tokens of the longest call, of one sequence; longer prompts are read in pieces.
        rows: sequences of the largest call that an engine is built for.
    """

    batch: int
    length: int
    chunk: int
    rows: int


@dataclass(frozen=True)
class Part:
    """Memory for one thing, in the phases that need it; ``estimate`` where it is not known but estimated."""

    name: str
    bytes: int
    phases: tuple[Phase, ...]
    estimate: bool = False


@dataclass(frozen=True)
class Fit:
    """A bundle on a board.

    Attributes:
        weights: bytes of them; of an engine that was built, its file's.
        floor_seconds: of one token for each sequence: all that must be read once, by the board's peak bandwidth. No
            program is faster, and none reaches it. None where experts are chosen: not all weights are read.
        parts: what takes memory.
        advice: what would make it fit, or fit better.
    """

    board: Board
    runtime: Runtime
    sizes: Sizes
    dtype: str
    weights: int
    floor_seconds: float | None
    parts: tuple[Part, ...]
    advice: tuple[str, ...] = field(default=())

    def needed(self, phase: Phase) -> int:
        return sum(part.bytes for part in self.parts if phase in part.phases)

    def fits(self, phase: Phase) -> bool:
        return self.needed(phase) <= self.board.free_bytes

    @property
    def phases(self) -> tuple[Phase, ...]:
        return ("run", "load", "build") if self.runtime == "TensorRT" else ("run", "load")


def sizes_of(bundle: Bundle, runtime: Runtime, batch: int, length: int | None) -> Sizes:
    """``length`` is all that the bundle holds unless it is given.

    Raises:
        UserError: the bundle holds fewer tokens.
    """
    capacity = bundle.manifest.capacity
    if length is None:
        length = capacity or LONGEST_CHUNK
    elif capacity is not None and length > capacity:
        raise UserError(f"`len` {length}: the bundle was exported for at most {capacity}{bundle.manifest.or_hold_more}")
    chunk = min(length, LONGEST_CHUNK) if runtime == "TensorRT" else length
    return Sizes(batch, length, chunk, max(batch, LARGEST_BATCH) if runtime == "TensorRT" else batch)


def runtime_on(bundle: Bundle, board: Board) -> Runtime:
    """TensorRT where the board has a GPU for it and the bundle is no one's for ONNX Runtime alone."""
    return "TensorRT" if board.runs_tensorrt and bundle.manifest.target != "ort" else "ONNX Runtime"


def estimate(bundle: Bundle, board: Board, sizes: Sizes, dtype_bytes: int | None = None) -> Fit:
    """The parts of a bundle's memory. ``dtype_bytes``: as if weights, states and activations had so many an element."""
    manifest, runtime = bundle.manifest, runtime_on(bundle, board)
    item = ITEM_BYTES[manifest.dtype]
    scale = (dtype_bytes or item) / item
    wide, weights = widths(bundle), round(_weights(bundle, board, runtime) * scale)
    fixed = manifest.state_bytes(sizes.batch, 0)
    caches = round((manifest.state_bytes(sizes.batch, sizes.length) - fixed) * scale)
    in_place = manifest.caches_in_place or (runtime == "TensorRT" and "CausalAttention" in manifest.ops)
    parts = [
        Part("weights", weights, ("run", "load")),
        Part("states, twice: before and after a call", 2 * fixed, ("run",)),
        Part("caches" if in_place else "caches, twice", caches if in_place else 2 * caches, ("run",)),
        Part("logits", 4 * _vocab(bundle) * sizes.rows * (sizes.chunk if _all_logits(bundle) else 1), ("run", "build")),
        Part("activations", _activations(bundle, runtime, wide, sizes, round(item * scale)), ("run", "build"), True),
        *_of_runtime(runtime, bundle, board, weights, wide, scale),
    ]
    read = weights - _not_read(bundle, wide, item * scale) + 2 * fixed + caches
    floor = None if "Experts" in manifest.ops else read / board.bandwidth
    dtype = manifest.dtype if scale == 1 else "float16"
    kept = tuple(part for part in parts if part.bytes)
    return Fit(board, runtime, sizes, dtype, weights, floor, kept)


def _weights(bundle: Bundle, board: Board, runtime: Runtime) -> int:
    files = [bundle.path / f"{MODEL}.data", bundle.model]
    if runtime == "TensorRT":
        plans = [bundle.path / FOLDER / engine.plan for engine in engines_of(bundle)
                 if engine.compute_capability == board.compute_capability]  # fmt: skip
        files = plans[:1] or files
    return sum(_size(file) for file in files)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _activations(bundle: Bundle, runtime: Runtime, wide: Widths, sizes: Sizes, item: int) -> int:
    hidden, widest = PER_TOKEN[runtime]
    elements = hidden * wide.hidden + widest * wide.widest
    if runtime == "ONNX Runtime" and "SelectiveScan" in bundle.manifest.ops:
        elements += sum(spec.sizes(1, 0)[1] for spec in bundle.manifest.states if spec.kind == "recurrent_state")
    return elements * sizes.rows * sizes.chunk * item


def _of_runtime(runtime: Runtime, bundle: Bundle, board: Board, weights: int, wide: Widths, scale: float) -> list[Part]:
    own = Part("the runtime itself", RUNTIME_BYTES[runtime], ("run", "load", "build"), True)
    if runtime == "ONNX Runtime":
        table = round(_table_bytes(bundle, wide) * scale) if wide.tables == 1 else 0
        return [own, Part("the embedding again, while it is packed for the output", table, ("load",), True)]
    scratch = max((SCRATCH.get(op, 0) for op in bundle.manifest.ops), default=0)
    plan = [Part("the engine's file, read before it is an engine", weights, ("load",))] if board.shared else []
    copies = BUILDER_COPIES if board.shared else 2
    builder = Part(f"the builder: {copies} times the weights", copies * weights, ("build",), True)
    return [own, Part("scratch memory of our plugins", scratch, ("run", "build")), *plan, builder]


def _vocab(bundle: Bundle) -> int:
    return bundle.manifest.language_model.vocab_size if bundle.manifest.language_model else 0


def _all_logits(bundle: Bundle) -> bool:
    return bundle.manifest.language_model is not None and bundle.manifest.language_model.logits == "all"


def _table_bytes(bundle: Bundle, wide: Widths) -> int:
    return _vocab(bundle) * wide.hidden * ITEM_BYTES[bundle.manifest.dtype]


def _not_read(bundle: Bundle, wide: Widths, item: float) -> int:
    """Of an embedding of its own a token reads one row."""
    return round(_vocab(bundle) * wide.hidden * item) if wide.tables == 2 else 0


def as_builtins(fit: Fit) -> dict[str, object]:
    """For JSON: sizes in bytes, times in seconds."""
    return {
        "board": msgspec.to_builtins(fit.board),
        "runtime": fit.runtime,
        "dtype": fit.dtype,
        **msgspec.to_builtins(fit.sizes),
        "free": fit.board.free_bytes,
        "needed": {phase: fit.needed(phase) for phase in fit.phases},
        "fits": {phase: fit.fits(phase) for phase in fit.phases},
        "floor_seconds": fit.floor_seconds,
        "parts": msgspec.to_builtins(fit.parts),
        "advice": list(fit.advice),
    }
