"""What ``import seqexport`` offers, each as one call; the command line is these calls with flags."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from seqexport.exporter.presets import HELD_OUT, resolve_source
from seqexport.plugins.errors import UserError
from seqexport.runtimes.backends import TORCH, backend_named, check_taken
from seqexport.runtimes.base import Runner
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.manifest import Logits, Target

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PreTrainedModel

    from seqexport.runtimes.comparison.accuracy import Original
    from seqexport.runtimes.comparison.compare import Comparison
    from seqexport.runtimes.comparison.verify import Check
    from seqexport.runtimes.model import Model

PathLike = str | os.PathLike[str]
Device = Literal["cpu", "cuda"]
Stage = Callable[[str], AbstractContextManager[object]]
Told = Callable[[str], None]

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def _nobody(said: str) -> None: ...


def export(
    model: PathLike | PreTrainedModel,
    output: PathLike,
    *,
    target: Target = "portable",
    dtype: str | None = None,
    logits: Logits = "last",
    max_len: int | None = None,
    opset: int = 20,
    passes: Sequence[ir.passes.PassBase] = (),
    tokenizer: PathLike | None = None,
    arch: Literal["mamba", "mamba2", "transformer", "hybrid"] | None = None,
    clamp_weights: bool = False,
    force: bool = False,
    trust_remote_code: bool = False,
    stage: Stage = lambda name: nullcontext(),
    note: Told = _nobody,
) -> Bundle:
    """Export a causal language model to a bundle: an ONNX file with explicit states, and the proof that it is right.

    Args:
        model: a checkpoint's folder, a Hugging Face hub id, ``preset:mamba``, ``preset:mamba2``,
            ``preset:transformer`` or ``preset:hybrid`` (small models that ship inside), or a loaded transformers
            model, which stays as it is.
        output: the bundle's folder; it appears whole or not at all.
        target: ``portable`` for any ONNX Runtime, ``ort`` for the fastest in a stock one, ``tensorrt`` for engines
            with our plugins.
        dtype: of weights and activations: ``fp32``, ``fp16`` or ``bf16``; None: the checkpoint's.
        logits: of each sequence's ``last`` valid token (generation), or of ``all`` (scoring).
        max_len: the capacity, the most tokens that a key/value cache can hold; None: the model's own limit.
        opset: ONNX opset, 18 to 23; or 27, of target ``portable`` alone: bodies of our ops then have ONNX's own
            LinearAttention and CausalConvWithState in them, for runtimes that have kernels of those.
        passes: onnx-ir passes of your own, run on the finished graph.
        tokenizer: a folder with the tokenizer's files; default: where the model came from.
        arch: refuse a model of another family.
        clamp_weights: set weights beyond the dtype to its largest value, instead of refusing them.
        force: replace ``output`` if it is a bundle already.
        trust_remote_code: run the Python code that a checkpoint brings. Never done without this.
        stage: called with the name of each step; the step runs inside the context manager that it gives.
        note: is told, before the long work, what is left out and where the bundle will not run.

    Returns:
        The bundle, opened.

    Raises:
        Error: the model cannot be loaded or exported, its own answers are not finite, or the output cannot be
            written; nothing is left behind.
    """
    try:
        from seqexport.exporter import pipeline
    except ImportError as error:
        raise UserError(f"exporting needs {error.name}: pip install 'seqexport[export]'") from error
    from seqexport.runtimes.quiet import quiet

    for name, value, known in (("target", target, get_args(Target)), ("logits", logits, get_args(Logits))):
        if value not in known:
            raise UserError(f"`{name}` {value!r}: expected one of {', '.join(known)}")
    options = pipeline.ExportOptions(
        model=os.fspath(model) if isinstance(model, (str, os.PathLike)) else model,
        arch=arch,
        dtype=DTYPES.get(dtype, dtype) if dtype else None,
        logits=logits,
        opset=opset,
        max_len=max_len,
        target=target,
        tokenizer=None if tokenizer is None else Path(tokenizer),
        clamp_weights=clamp_weights,
        force=force,
        trust_remote_code=trust_remote_code,
    )
    with quiet():
        return pipeline.export(options, Path(output), stage, note, passes)


def load(
    bundle: PathLike | Bundle,
    backend: str = "ort",
    *,
    device: Device | None = None,
    threads: int | None = None,
    plugins: bool | None = None,
    original: str | None = None,
    trust_remote_code: bool | None = None,
) -> Model:
    """Open a bundle on a backend, for text or for tokens and states.

    Args:
        bundle: its folder, or a bundle that is opened already.
        backend: ``ort`` (ONNX Runtime), ``trt`` (TensorRT), or ``torch``, the PyTorch original itself.
        device: of ``ort`` and ``torch``; default ``cpu``. ``trt`` is on the GPU.
        threads: of ``ort`` and ``torch`` on a CPU; default: all cores that this process may use.
        plugins: of ``ort``: False runs the ops' function bodies even where our compiled library could run them.
        original: of ``torch``: a folder or hub id; default: where the bundle came from.
        trust_remote_code: of ``torch``: run the Python code that the original brings.

    Raises:
        Error: the bundle is damaged or of another version, the backend is not to be had here, or an option is
            another backend's.
    """
    from seqexport.runtimes.model import Model

    options = {"device": device, "threads": threads, "plugins": plugins, "trust_remote_code": trust_remote_code}
    return Model(open_runner(bundle, backend, original=original, **options))


def verify(
    bundle: PathLike | Bundle,
    backend: str = "ort",
    *,
    device: Device | None = None,
    threads: int | None = None,
    plugins: bool | None = None,
    not_checked: Told = _nobody,
) -> list[Check]:
    """Check that a bundle gives the original's answers on this machine, from what it has recorded of them.

    Logits and states, after a whole prefill, a prefill in chunks, and along decode. PyTorch is not needed. The
    arguments are those of ``load``.

    Args:
        not_checked: is told, in a phrase each, what the recorded texts leave open.

    Returns:
        Every check, with its ``error``, PyTorch's own, what is ``allowed``, and whether it ``passed``.

    Raises:
        Error: the bundle has no reference or a damaged one, or it cannot be run here.
    """
    from seqexport.runtimes.comparison.reference import read_reference
    from seqexport.runtimes.comparison.verify import verify

    opened = _bundle(bundle)
    reference = read_reference(opened.reference)
    with open_runner(opened, backend, device=device, threads=threads, plugins=plugins) as runner:
        return list(verify(runner, reference, not_checked))


def compare(
    bundles: Sequence[PathLike | Bundle],
    backends: Sequence[str] = ("torch", "ort"),
    *,
    text: PathLike = HELD_OUT,
    quick: bool = False,
    device: Device | None = None,
    threads: int | None = None,
    plugins: bool | None = None,
    original: str | None = None,
    progress: Told = _nobody,
) -> Comparison:
    """Compare backends with the PyTorch original: how exact they are, how fast, and what they keep in memory.

    Args:
        bundles: one, or up to four to set their curves side by side.
        backends: what to run; ``torch`` is the original itself.
        text: a held-out text, UTF-8; one ships inside.
        quick: fewer and smaller measurements, for small models.
        device, threads, plugins, original: as for ``load``, for those backends that take them.
        progress: is told what happens next.

    Returns:
        All that was found; without PyTorch here, speed alone. ``seqexport.runtimes.comparison.report.write_html`` makes
        a page of it.

    Raises:
        Error: a bundle, the text or an original cannot be read. A backend that fails is a result like any other.
    """
    from seqexport.runtimes.comparison.compare import FULL, MOST_BUNDLES, QUICK
    from seqexport.runtimes.comparison.compare import compare as run
    from seqexport.runtimes.quiet import quiet

    opened = [_bundle(bundle) for bundle in bundles]
    if not 1 <= len(opened) <= MOST_BUNDLES:
        raise UserError(f"`bundles`: {len(opened)}; compare one, or up to four side by side")
    given = {"device": device, "threads": threads, "plugins": plugins}
    with quiet():
        openers, truth = _openers(backends, given, original)
        options = QUICK if quick else FULL
        return run(opened, openers, text=Path(text), original=truth, options=options, progress=progress)


def open_runner(bundle: PathLike | Bundle, backend: str, *, original: str | None = None, **options: Any) -> Runner:
    """What ``load`` opens: tokens and states, no text."""
    opened = _bundle(bundle)
    if backend == TORCH.name:
        original = resolve_source(original or opened.manifest.source.model)
    return backend_named(backend).open(opened, original=original, **options)


def _bundle(bundle: PathLike | Bundle) -> Bundle:
    return bundle if isinstance(bundle, Bundle) else open_bundle(bundle)


def _openers(
    backends: Sequence[str], given: Mapping[str, Any], original: str | None
) -> tuple[dict[str, Callable[[Bundle], Runner]], Original | None]:
    """How to open each backend with what it takes of the options, and the original as the reference."""
    chosen = {name: backend_named(name) for name in backends}
    check_taken(given, chosen.values())
    openers: dict[str, Callable[[Bundle], Runner]] = {
        name: functools.partial(backend.open, **{key: given[key] for key in given.keys() & backend.options})
        for name, backend in chosen.items()
    }
    try:
        from seqexport.runtimes.comparison.original import fastest_threads, reference_runners
        from seqexport.runtimes.pytorch.runner import TorchRunner
    except ImportError:
        return openers, None
    load = _original_loader(original)
    if TORCH.name in openers:

        def open_torch(bundle: Bundle) -> Runner:
            model, device = load(bundle), given["device"] or "cpu"
            threads = given["threads"] or (fastest_threads(bundle, model) if device == "cpu" else None)
            return TorchRunner(bundle, model, device=device, threads=threads)

        openers[TORCH.name] = open_torch
    return openers, reference_runners(load)


def _original_loader(original: str | None) -> Callable[[Bundle], PreTrainedModel]:
    """Loads a bundle's original in the bundle's dtype, once."""
    from seqexport.runtimes.pytorch.runner import load_original_of

    loaded: dict[Any, PreTrainedModel] = {}

    def load(bundle: Bundle) -> PreTrainedModel:
        source, dtype = bundle.manifest.source, bundle.manifest.dtype
        key = source.model, dtype, source.clamped
        if key not in loaded:
            loaded[key] = load_original_of(bundle, resolve_source(original or source.model))
        return loaded[key]

    return load
