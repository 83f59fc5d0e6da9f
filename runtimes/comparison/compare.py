"""Every backend of one to four bundles, beside the PyTorch original: how exact, how fast, how much memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from seqexport.plugins.errors import UserError
from seqexport.runtimes import backends as known
from seqexport.runtimes.base import Runner
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.comparison.accuracy import (
    Accuracy,
    AccuracyOptions,
    Answers,
    Check,
    Original,
    accuracy,
    answers,
    checks,
    pass_accuracy,
    true_bits_per_byte,
    worse_of,
)
from seqexport.runtimes.comparison.measure import Point, SpeedOptions, measure
from seqexport.runtimes.finite import not_finite
from seqexport.runtimes.machine import Machine, this_machine
from seqexport.runtimes.manifest import Manifest, Record
from seqexport.runtimes.text import Rows, read_rows

FORMAT_VERSION = 1
TORCH = known.TORCH.name
MOST_BUNDLES = 4
"""That a report has colours for."""

STATE_LENGTHS = tuple(2**n for n in range(6, 18))

Factory = Callable[[Bundle], Runner]
Progress = Callable[[str], None]


class CompareOptions(Record, frozen=True):
    accuracy: AccuracyOptions = AccuracyOptions()
    speed: SpeedOptions = SpeedOptions()


QUICK = CompareOptions(
    AccuracyOptions(rows=2, prompt=64, steps=1000),
    SpeedOptions(lengths=(64, 256, 1024, 2048, 4096, 8000), batches=(1,), steps=16, repeats=3, budget_seconds=7.0),
)
FULL = CompareOptions()


class StateSize(Record, frozen=True):
    """Bytes of all states of one sequence of ``tokens`` tokens."""

    tokens: int
    bytes: int


class BackendResult(Record, frozen=True):
    """One backend on one bundle. ``error`` says why it could not run; then the rest is empty.

    Attributes:
        description: versions, device, and what computes our ops.
        accuracy: against the float64 original; None without PyTorch.
        checks: that accuracy held to PyTorch's own.
        points: speed and memory, by size.
    """

    backend: str
    description: str = ""
    accuracy: Accuracy | None = None
    checks: tuple[Check, ...] = ()
    points: tuple[Point, ...] = ()
    error: str | None = None

    @property
    def passed(self) -> bool | None:
        """Whether every check holds; None where there is none."""
        return all(check.passed for check in self.checks) if self.checks else None


class BundleResult(Record, frozen=True):
    """One bundle on every backend.

    Attributes:
        own: PyTorch's accuracy in the bundle's dtype, that every backend's is held to.
        bits_per_byte: of the float64 original.
        note: why there is no accuracy, if so.
        rows, prompt, steps, text: what was read for it.
    """

    name: str
    architecture: str
    family: str
    dtype: str
    target: str
    parameters: int
    capacity: int | None
    states: tuple[StateSize, ...]
    results: tuple[BackendResult, ...]
    own: Accuracy | None = None
    bits_per_byte: float | None = None
    note: str | None = None
    text: str = ""
    rows: int = 0
    prompt: int = 0
    steps: int = 0


class Comparison(Record, frozen=True):
    """All that a report shows; this is its JSON."""

    format_version: int
    machine: Machine
    options: CompareOptions
    bundles: tuple[BundleResult, ...]

    @property
    def passed(self) -> bool:
        """No backend failed to run, and no check of any failed."""
        results = [result for bundle in self.bundles for result in bundle.results]
        return all(result.error is None and result.passed is not False for result in results)


def compare(
    bundles: Sequence[Bundle],
    backends: Mapping[str, Factory],
    *,
    text: Path,
    original: Original | None,
    options: CompareOptions = FULL,
    progress: Progress = lambda what: None,
) -> Comparison:
    """Compare backends with the PyTorch original, one runner open at a time.

    Args:
        bundles: one, or up to ``MOST_BUNDLES`` whose curves the report sets side by side.
        backends: opens a bundle, by the backend's name; ``torch`` is the original itself.
        text: a held-out text, UTF-8.
        original: None where there is no PyTorch; then only speed is compared.
        progress: is told what happens next.

    Raises:
        UserError: the text or an original cannot be read. A backend that fails is a result like any other.
    """
    results = [_bundle(bundle, backends, text, original, options, progress) for bundle in bundles]
    return Comparison(FORMAT_VERSION, this_machine(), options, tuple(results))


def _bundle(
    bundle: Bundle,
    backends: Mapping[str, Factory],
    text: Path,
    original: Original | None,
    options: CompareOptions,
    progress: Progress,
) -> BundleResult:
    manifest = bundle.manifest
    truth = own = note = None
    if original is None:
        note = "no PyTorch here: speed only"
    else:
        rows = _rows(text, bundle, options.accuracy)
        progress(f"{bundle.name}: PyTorch in float64")
        with original.float64(bundle) as float64:
            truth = answers(float64, rows, options.accuracy.prompt)
        if told := not_finite(truth.logits):
            raise UserError(
                f"{bundle.name}: the original's logits on {text.name} are not finite even in float64: {told}; "
                "there is nothing to compare with"
            )
        progress(f"{bundle.name}: PyTorch in {manifest.dtype}")
        own = _own_accuracy(bundle, original, truth, progress)
    results = tuple(
        _backend(name, factory, bundle, truth, own, options, progress) for name, factory in backends.items()
    )
    return BundleResult(
        name=bundle.name,
        architecture=manifest.architecture,
        family=str(manifest.family),
        dtype=manifest.dtype,
        target=manifest.target,
        parameters=manifest.source.parameters,
        capacity=manifest.capacity,
        states=_state_sizes(manifest),
        results=results,
        own=own,
        bits_per_byte=true_bits_per_byte(truth) if truth else None,
        note=note,
        text=text.name if truth else "",
        rows=len(truth.rows.ids) if truth else 0,
        prompt=truth.prompt if truth else 0,
        steps=truth.steps if truth else 0,
    )


def _own_accuracy(bundle: Bundle, original: Original, truth: Answers, progress: Progress) -> Accuracy:
    """PyTorch's own error in the bundle's dtype: the larger of reading the text whole and token by token."""
    with original.native(bundle) as native:
        steps = accuracy(native, truth, lambda what: progress(f"{bundle.name}, PyTorch: {what}"))
    with original.whole(bundle) as native:
        return worse_of(steps, pass_accuracy(native, truth))


def _rows(text: Path, bundle: Bundle, options: AccuracyOptions) -> Rows:
    """The text's sequences, cut to the bundle's capacity."""
    fed = options.prompt + options.steps
    if bundle.manifest.capacity is not None:
        fed = min(fed, bundle.manifest.capacity)
    if fed <= options.prompt:
        raise UserError(
            f"{bundle.name} holds {bundle.manifest.capacity} tokens; a prompt of {options.prompt} leaves "
            f"none to decode; give a bundle that holds more{bundle.manifest.or_hold_more}"
        )
    return read_rows(text, bundle, rows=options.rows, prompt=options.prompt, tokens=fed + 1)


def _backend(
    name: str,
    factory: Factory,
    bundle: Bundle,
    truth: Answers | None,
    own: Accuracy | None,
    options: CompareOptions,
    progress: Progress,
) -> BackendResult:
    def say(what: str) -> None:
        progress(f"{bundle.name}, {name}: {what}")

    say("opening")
    try:
        with factory(bundle) as runner:
            description = runner.description
            found = own if name == TORCH or truth is None else accuracy(runner, truth, say)
            held = checks(found, own, bundle.manifest.dtype) if name != TORCH and found and own else ()
            return BackendResult(name, description, found, held, measure(runner, options.speed, say))
    except UserError as error:
        return BackendResult(name, error=str(error))


def _state_sizes(manifest: Manifest) -> tuple[StateSize, ...]:
    lengths = [n for n in STATE_LENGTHS if manifest.capacity is None or n <= manifest.capacity]
    return tuple(StateSize(n, manifest.state_bytes(1, n)) for n in lengths)
