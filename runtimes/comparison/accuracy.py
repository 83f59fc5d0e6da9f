"""Errors of a Runner against the float64 original, while both read the same text token by token.

A row is a prompt, fed at once, and ``steps`` tokens of the text after it, fed one by one whatever the model
would have said (teacher forcing). Logits and states are compared as they come. The prompt is also fed without its
last tokens, as several prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner, States, Tokens
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.comparison.reference import relative_error
from seqexport.runtimes.manifest import Manifest, Record
from seqexport.runtimes.text import Rows

ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Relative error of one rounding."""

ALLOWED = 2.0
"""How many times PyTorch's own error an error may be."""

CEILING = {"float32": 2.0**-7, "float16": 2.0**-3, "bfloat16": 2.0**-1}
"""The most that is ever allowed by what a bundle says of PyTorch's error: beyond it answers are others, not rounded."""

PROMPTS = 16
"""Prompts that are read, each a token shorter than the next: the error of one position's logits is ten times that of
another's, in PyTorch and in engines alike (seen in float32), so that one position says nothing."""

BINS = 25


def allowed(own: float, dtype: str) -> float | None:
    """The most that an error may be, where a bundle says that PyTorch's is ``own``; None where that is not finite."""
    return min(ALLOWED * max(own, ROUNDING[dtype]), CEILING[dtype]) if isfinite(own) else None


Doubles = NDArray[np.float64]
Errors = TypeVar("Errors", "StepError", "StateError")


class AccuracyOptions(Record, frozen=True):
    """``rows`` of the text, each a prompt of ``prompt`` tokens and ``steps`` decode steps after it."""

    rows: int = 2
    prompt: int = 128
    steps: int = 1000


class StepError(Record, frozen=True):
    """Relative error of the logits of the steps since the record before, up to ``step``."""

    step: int
    error: float | None


class StateError(Record, frozen=True):
    """Relative error of the layer that is worst in this kind of state; step 0 is right after the prompt."""

    kind: str
    step: int
    error: float | None


class Accuracy(Record, frozen=True):
    """Errors are relative in the L2 norm unless they say otherwise; None: NaN or infinity came out.

    Attributes:
        prompt_error, prompt_max: of the logits after the prompts; the largest absolute error.
        decode_error, decode_max: of the logits of all steps.
        agreement: share of positions where the likeliest token is the float64 original's.
        bits_per_byte: of the text after the prompt, divided by its length in UTF-8 bytes.
    """

    prompt_error: float | None
    prompt_max: float | None
    decode_error: float | None
    decode_max: float | None
    steps: tuple[StepError, ...]
    states: tuple[StateError, ...]
    agreement: float
    bits_per_byte: float | None


class Check(Record, frozen=True):
    """One error beside PyTorch's own and the most that is allowed."""

    what: str
    error: float | None
    own: float | None
    allowed: float
    passed: bool


@dataclass(frozen=True)
class Original:
    """How to open the PyTorch original.

    Attributes:
        native: in the bundle's dtype, as generation runs it.
        whole: the same with all tokens' logits, to read a text in one pass.
        float64: opens it in float64 arithmetic, with the logits of all tokens.
    """

    native: Callable[[Bundle], Runner]
    whole: Callable[[Bundle], Runner]
    float64: Callable[[Bundle], Runner]


@dataclass(frozen=True)
class Answers:
    """What the float64 original makes of a text.

    Attributes:
        rows: the text.
        prompt: tokens of the longest prompt.
        prompts: float64[rows, prompts, vocab], the logits after each prompt, the longest last.
        logits: float64[rows, 1 + steps, vocab], after the longest prompt and after each step.
        states: by the step after which they were taken.
    """

    rows: Rows
    prompt: int
    prompts: Doubles
    logits: Doubles
    states: Mapping[int, States]

    @property
    def steps(self) -> int:
        return int(self.logits.shape[1]) - 1

    @property
    def lengths(self) -> range:
        """Of the prompts."""
        return range(self.prompt + 1 - self.prompts.shape[1], self.prompt + 1)


def checkpoints(steps: int) -> list[int]:
    """0, 1, 10, 100, ... and the last."""
    return sorted({0, steps, *(10**n for n in range(7) if 10**n <= steps)})


def answers(float64: Runner, rows: Rows, prompt: int) -> Answers:
    """Read a text whole, with a runner that gives all tokens' logits.

    The logits come from one pass, and each checkpoint's states from a pass that ends there: in exact
    arithmetic a pass and single steps are the same.
    """
    fed = rows.ids[:, :-1]
    batch, length = fed.shape
    with float64.session(batch, length) as session:
        shortest = max(1, prompt + 1 - PROMPTS)
        logits = np.asarray(session.prefill(fed)[:, shortest - 1 :], np.float64)
        last = session.read_states()
    states = {length - prompt: last}
    for step in checkpoints(length - prompt)[:-1]:
        with float64.session(batch, length) as session:
            session.prefill(fed[:, : prompt + step])
            states[step] = session.read_states()
    count = prompt + 1 - shortest
    return Answers(rows, prompt, logits[:, :count], logits[:, count - 1 :], states)


def accuracy(runner: Runner, truth: Answers, progress: Callable[[str], None] = lambda what: None) -> Accuracy:
    """Read the text with a runner, as generation would: each prompt at once, then token by token.

    Raises:
        UserError: what the runner raises, or states that are not shaped like the original's.
    """
    batch, steps = truth.rows.ids.shape[0], truth.steps
    seen = _Seen(truth)
    for place, length in enumerate(truth.lengths[:-1]):
        with runner.session(batch, length) as session:
            seen.prompt(place, session.prefill(truth.rows.ids[:, :length])[:, -1])
    with runner.session(batch, truth.prompt + steps) as session:
        seen.logits(0, session.prefill(truth.rows.ids[:, : truth.prompt])[:, -1])
        seen.states(0, session.read_states(), session.manifest)
        for step in range(1, steps + 1):
            seen.logits(step, session.step(truth.rows.ids[:, truth.prompt + step - 1]))
            if step in truth.states:
                progress(f"decode step {step} of {steps}")
                seen.states(step, session.read_states(), session.manifest)
    return seen.result()


def pass_accuracy(runner: Runner, truth: Answers) -> Accuracy:
    """Read the text whole instead, with a runner that gives all tokens' logits."""
    given, seen = answers(runner, truth.rows, truth.prompt), _Seen(truth)
    for place in range(len(truth.lengths) - 1):
        seen.prompt(place, given.prompts[:, place])
    for step in range(truth.steps + 1):
        seen.logits(step, given.logits[:, step])
        if step in truth.states:
            seen.states(step, given.states[step], runner.manifest)
    return seen.result()


def worse_of(steps: Accuracy, whole: Accuracy) -> Accuracy:
    """The larger error of two ways to compute the same, each as good as the other; the rest from the first."""

    def larger(name: str) -> float | None:
        pair = (getattr(steps, name), getattr(whole, name))
        return None if None in pair else max(pair)

    names = ("prompt_error", "prompt_max", "decode_error", "decode_max")
    return msgspec.structs.replace(
        steps,
        **{name: larger(name) for name in names},
        steps=tuple(map(_larger, steps.steps, whole.steps)),
        states=tuple(map(_larger, steps.states, whole.states)),
    )


def _larger(a: Errors, b: Errors) -> Errors:
    return a if a.error is None or (b.error is not None and a.error >= b.error) else b


class _Differences:
    """From what is true, by position."""

    def __init__(self, positions: int) -> None:
        self.squares, self.norms, self.largest = np.zeros((3, positions))

    def add(self, position: int, ours: Doubles, true: Doubles) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            self.squares[position] = np.square(ours - true).sum()
            self.largest[position] = np.abs(ours - true).max()
        self.norms[position] = np.square(true).sum()

    def error(self, start: int = 0, end: int | None = None) -> float | None:
        """Relative, over positions from ``start`` to before ``end``."""
        return _finite(np.sqrt(self.squares[start:end].sum() / self.norms[start:end].sum()))


class _Seen:
    """What a runner answers, beside what is true."""

    def __init__(self, truth: Answers) -> None:
        self.truth = truth
        self.prompts, self.steps = _Differences(len(truth.lengths)), _Differences(truth.steps)
        self.same, self.bits = 0, 0.0
        self.state_errors: list[StateError] = []

    def prompt(self, position: int, given: NDArray[np.floating]) -> None:
        """float[rows, vocab] after one of the prompts."""
        self.prompts.add(position, given.astype(np.float64), self.truth.prompts[:, position])

    def logits(self, step: int, given: NDArray[np.floating]) -> None:
        """float[rows, vocab] after a step; step 0 is the longest prompt."""
        ours, true = given.astype(np.float64), self.truth.logits[:, step]
        if step:
            self.steps.add(step - 1, ours, true)
        else:
            self.prompts.add(-1, ours, true)
        with np.errstate(invalid="ignore", over="ignore"):
            self.bits += bits(ours, self.truth.rows.ids[:, self.truth.prompt + step])
        self.same += int(((ours.argmax(-1) == true.argmax(-1)) & np.isfinite(ours).all(-1)).sum())

    def states(self, step: int, ours: States, manifest: Manifest) -> None:
        true = self.truth.states[step]
        worst: dict[str, float] = {}
        for spec in manifest.states:
            error = state_error(ours[spec.past_name], true[spec.past_name], spec.past_name)
            worst[spec.kind] = max(worst.get(spec.kind, 0.0), error)
        self.state_errors += [StateError(kind, step, _finite(error)) for kind, error in worst.items()]

    def result(self) -> Accuracy:
        return Accuracy(
            prompt_error=self.prompts.error(),
            prompt_max=_finite(self.prompts.largest.max()),
            decode_error=self.steps.error(),
            decode_max=_finite(self.steps.largest.max()),
            steps=self._steps(),
            states=tuple(self.state_errors),
            agreement=self.same / (self.truth.rows.ids.shape[0] * (self.truth.steps + 1)),
            bits_per_byte=_finite(self.bits / self.truth.rows.bytes),
        )

    def _steps(self) -> tuple[StepError, ...]:
        edges = np.unique(np.geomspace(1, self.truth.steps, BINS).round().astype(int))
        starts = [0, *edges[:-1]]
        pairs = zip(starts, edges, strict=True)
        return tuple(StepError(int(end), self.steps.error(start, end)) for start, end in pairs)


def bits(logits: Doubles, targets: Tokens) -> float:
    """-log2 of the softmax's share of each target, summed; logits [rows, vocab], targets [rows]."""
    top = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(-1)) + top[:, 0]
    return float((total - logits[np.arange(len(targets)), targets]).sum() / np.log(2))


def true_bits_per_byte(truth: Answers) -> float:
    """The float64 original's."""
    targets = truth.rows.ids[:, truth.prompt :]
    total = sum(bits(truth.logits[:, step], targets[:, step]) for step in range(truth.steps + 1))
    return total / truth.rows.bytes


def state_error(ours: NDArray[np.floating], true: NDArray[np.floating], name: str) -> float:
    if ours.shape != true.shape:
        raise UserError(f"state {name} has the shape {list(ours.shape)}; expected {list(true.shape)}")
    return relative_error(ours, true)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def checks(given: Accuracy, own: Accuracy, dtype: str) -> tuple[Check, ...]:
    """Hold each error to twice PyTorch's own, the latter taken as one rounding at least; what is not finite fails."""
    last = given.steps[-1].step
    found = [
        _check("logits after the prompts", given.prompt_error, own.prompt_error, dtype),
        _check(f"logits of {last} decode steps", given.decode_error, own.decode_error, dtype),
    ]
    for ours, theirs in zip(given.states, own.states, strict=True):
        when = f"after {ours.step} steps" if ours.step else "after the prompt"
        found.append(_check(f"{ours.kind} {when}", ours.error, theirs.error, dtype))
    return tuple(found)


def _check(what: str, error: float | None, own: float | None, dtype: str) -> Check:
    allowed = ALLOWED * max(own or 0.0, ROUNDING[dtype])
    return Check(what, error, own, allowed, error is not None and own is not None and error <= allowed)
