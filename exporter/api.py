"""What ``import seqexport`` offers, each as one call; the command line is these calls with flags."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
    from torch import nn
    from transformers import PreTrainedModel

    from seqexport.exporter.any_module import Axes
    from seqexport.exporter.trace import Translations
    from seqexport.runtimes.comparison.accuracy import Original
    from seqexport.runtimes.comparison.compare import Comparison
    from seqexport.runtimes.comparison.module_compare import ModuleComparison
    from seqexport.runtimes.comparison.verify import Check
    from seqexport.runtimes.model import Model
    from seqexport.runtimes.module import ModuleRunner

PathLike = str | os.PathLike[str]
Device = Literal["cpu", "cuda"]
Stage = Callable[[str], AbstractContextManager[object]]
Told = Callable[[str], None]

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def _nobody(said: str) -> None: ...


@contextmanager
def importing() -> Iterator[None]:
    """What is imported inside needs PyTorch and the like.

    Raises:
        UserError: one of them is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(f"exporting needs {error.name}: pip install 'seqexport[export]'") from error


def export(
    model: PathLike | nn.Module,
    output: PathLike,
    *,
    inputs: Mapping[str, Any] | None = None,
    dynamic: Axes | None = None,
    states: Mapping[str, str] | None = None,
    weights: PathLike | None = None,
    target: Target = "portable",
    dtype: str | None = None,
    logits: Logits = "last",
    max_len: int | None = None,
    opset: int = 20,
    passes: Sequence[ir.passes.PassBase] = (),
    translations: Translations | None = None,
    tokenizer: PathLike | None = None,
    arch: Literal["mamba", "mamba2", "transformer", "hybrid"] | None = None,
    clamp_weights: bool = False,
    force: bool = False,
    trust_remote_code: bool = False,
    stage: Stage = lambda name: nullcontext(),
    note: Told = _nobody,
) -> Bundle:
    """Export a causal language model, or any module, to a bundle: an ONNX file, and the proof that it is right.

    Args:
        model: a checkpoint's folder, a Hugging Face hub id, ``preset:mamba``, ``preset:mamba2``,
            ``preset:transformer`` or ``preset:hybrid`` (small models that ship inside), or a loaded transformers
            model. With ``inputs``: any ``torch.nn.Module``, or ``package.module:factory``, a function of your own in
            the current folder or on the Python path that gives one; its code is run. What is given stays as it is.
        output: the bundle's folder; it appears whole or not at all.
        inputs: of any module: an example tensor for each argument of its ``forward``, by keyword. Answers are recorded
            for the examples' values, and for others that are drawn from them; zeros stand for random normal numbers.
        dynamic: of any module: for each input that has some, its dynamic axes: ``{0: "batch", 2: "height"}``, or all
            axes in order, ``("batch", 3, "height", "width")``. Axes of one name have one size in every call.
        states: of any module: explicit states, the input that holds a state before a call and the output after it.
        weights: of what a factory makes: a safetensors file of all its tensors.
        target: ``portable`` for any ONNX Runtime, ``ort`` for the fastest in a stock one, ``tensorrt`` for engines
            with our plugins.
        dtype: of weights and activations: ``fp32``, ``fp16`` or ``bf16``; None: the checkpoint's.
        logits: of each sequence's ``last`` valid token (generation), or of ``all`` (scoring).
        max_len: the capacity, the most tokens that a key/value cache can hold; None: the model's own limit.
        opset: ONNX opset, 18 to 23; or 27, of target ``portable`` alone: bodies of our ops then have ONNX's own
            LinearAttention and CausalConvWithState in them, for runtimes that have kernels of those.
        passes: onnx-ir passes of your own, run on the finished graph.
        translations: of any module: for torch ops of your own, what makes ONNX nodes of a call
            (``custom_translation_table`` of ``torch.onnx.export``).
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
    with importing():
        from seqexport.exporter import any_module, pipeline
    from seqexport.runtimes.quiet import quiet

    for name, value, known in (("target", target, get_args(Target)), ("logits", logits, get_args(Logits))):
        if value not in known:
            raise UserError(f"`{name}` {value!r}: expected one of {', '.join(known)}")
    if dtype is not None:
        dtype = DTYPES.get(dtype, dtype)
    named: Any = os.fspath(model) if isinstance(model, (str, os.PathLike)) else model
    of_modules = {"weights": weights, "dynamic": dynamic, "states": states, "translations": translations}
    if inputs is not None:
        _refuse(
            {"arch": arch, "max_len": max_len, "tokenizer": tokenizer}, "a language model, exported without `inputs`"
        )
        asked = any_module.ModuleOptions(
            inputs, dynamic or {}, states or {}, None if weights is None else Path(weights), dtype=dtype,
            target=target, opset=opset, force=force, translations=translations,
        )  # fmt: skip
        with quiet():
            return any_module.export_module(named, asked, Path(output), stage, note, passes)
    _refuse(of_modules, "any module, exported with `inputs`")
    options = pipeline.ExportOptions(
        model=named,
        arch=arch,
        dtype=dtype,
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


def _refuse(options: Mapping[str, Any], whose: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise UserError(f"`{name}` is of {whose}")


def load(
    bundle: PathLike | Bundle,
    backend: str = "ort",
    *,
    device: Device | None = None,
    threads: int | None = None,
    plugins: bool | None = None,
    original: str | nn.Module | None = None,
    weights: PathLike | None = None,
    trust_remote_code: bool | None = None,
) -> Model:
    """Open a bundle on a backend, for text or for tokens and states; of any module, to be called with arrays.

    Args:
        bundle: its folder, or a bundle that is opened already.
        backend: ``ort`` (ONNX Runtime), ``trt`` (TensorRT), or ``torch``, the PyTorch original itself.
        device: of ``ort`` and ``torch``; default ``cpu``. ``trt`` is on the GPU.
        threads: of ``ort`` and ``torch`` on a CPU; default: all cores that this process may use.
        plugins: of ``ort``: False runs the ops' function bodies even where our compiled library could run them.
        original: of ``torch``: a folder or hub id; default: where the bundle came from. Of any module: the module, or
            ``package.module:factory``, whose code is run.
        weights: of ``torch``: of what a factory makes, a safetensors file.
        trust_remote_code: of ``torch``: run the Python code that the original brings.

    Raises:
        Error: the bundle is damaged or of another version, the backend is not to be had here, or an option is
            another backend's.
    """
    from seqexport.runtimes.model import Model

    options: dict[str, Any] = {"device": device, "threads": threads, "plugins": plugins}
    options["trust_remote_code"] = trust_remote_code
    opened = _bundle(bundle)
    if is_module(opened):
        return Model(open_module(opened, backend, original=original, weights=weights, **options))
    _refuse({"weights": weights}, "any module, and this bundle is a language model's")
    return Model(open_runner(opened, backend, original=_named(original), **options))


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

    Logits and states, after a whole prefill, a prefill in chunks, and along decode; of any module every output, at
    several sizes. PyTorch is not needed. The arguments are those of ``load``.

    Args:
        not_checked: is told, in a phrase each, what the recorded texts leave open.

    Returns:
        Every check, with its ``error``, PyTorch's own, what is ``allowed``, and whether it ``passed``.

    Raises:
        Error: the bundle has no reference or a damaged one, or it cannot be run here.
    """
    from seqexport.runtimes.comparison.reference import read_reference
    from seqexport.runtimes.comparison.verify import verify

    options: dict[str, Any] = {"device": device, "threads": threads, "plugins": plugins}
    opened = _bundle(bundle)
    if is_module(opened):
        from seqexport.runtimes.comparison.module_verify import verify_bundle

        with open_module(opened, backend, **options) as module:
            return list(verify_bundle(module, not_checked))
    reference = read_reference(opened)
    with open_runner(opened, backend, **options) as runner:
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
    original: str | nn.Module | None = None,
    weights: PathLike | None = None,
    progress: Told = _nobody,
) -> Comparison | ModuleComparison:
    """Compare backends with the PyTorch original: how exact they are, how fast, and what they keep in memory.

    Bundles of any module are held to what they have recorded; ``torch`` needs their ``original``.

    Args:
        bundles: one, or up to four to set their curves side by side.
        backends: what to run; ``torch`` is the original itself.
        text: a held-out text, UTF-8; one ships inside.
        quick: fewer and smaller measurements, for small models.
        device, threads, plugins, original, weights: as for ``load``, for those backends that take them.
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
    modules = [bundle for bundle in opened if is_module(bundle)]
    if modules and len(modules) < len(opened):
        raise UserError(f"`bundles`: {modules[0].path} is not a language model's, and others are; compare them apart")
    if modules:
        with quiet():
            return _compare_modules(
                opened, backends, {**given, "original": original, "weights": weights}, quick, progress
            )
    _refuse({"weights": weights}, "any module, and these bundles are language models'")
    with quiet():
        openers, truth = _openers(backends, given, _named(original))
        options = QUICK if quick else FULL
        return run(opened, openers, text=Path(text), original=truth, options=options, progress=progress)


def is_module(bundle: Bundle) -> bool:
    """Whether a bundle is of any module, not of a language model."""
    return bundle.manifest.language_model is None


def open_module(
    bundle: PathLike | Bundle,
    backend: str,
    *,
    original: str | nn.Module | None = None,
    weights: PathLike | None = None,
    **options: Any,
) -> ModuleRunner:
    """What ``load`` opens of a bundle of any module."""
    file = None if weights is None else Path(weights)
    with _stand_ins() if isinstance(original, str) else nullcontext():
        return backend_named(backend).open_module(_bundle(bundle), original=original, weights=file, **options)


def _stand_ins() -> AbstractContextManager[None]:
    from seqexport.exporter.standins import mamba_ssm

    return mamba_ssm()


def _named(original: str | nn.Module | None) -> str | None:
    if original is None or isinstance(original, str):
        return original
    raise UserError(f"`original`: expected a folder or a hub id, got a {type(original).__name__}")


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


def _compare_modules(
    bundles: Sequence[Bundle], backends: Sequence[str], given: Mapping[str, Any], quick: bool, progress: Told
) -> ModuleComparison:
    from seqexport.runtimes.comparison.module_bench import FULL, QUICK
    from seqexport.runtimes.comparison.module_compare import compare_modules

    chosen = {name: backend_named(name).for_modules for name in backends}
    check_taken(given, chosen.values())
    openers = {
        name: functools.partial(open_module, backend=name, **{key: given[key] for key in given.keys() & each.options})
        for name, each in chosen.items()
    }
    return compare_modules(bundles, openers, QUICK if quick else FULL, progress)


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
