"""What the PyTorch original answers, recorded in the bundle, so that a machine without PyTorch can verify an engine.

``reference.safetensors`` holds the inputs of one ragged prefill and some decode steps, and for each of them the logits
of the original computed in float64, and its states at the end. Its metadata holds PyTorch's own relative error in the
bundle's dtype, of the logits over every position and of each state: ours may be at most twice as large. The first
tokens of the text are read once more after made-up caches (late.py): across the end of each sliding window, and late
in the capacity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Lengths, Runner, Session, States, Tokens
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.comparison.late import MOST_BYTES, made_up, starts
from seqexport.runtimes.comparison.reference_file import array, held_reference
from seqexport.runtimes.finite import ADVICE, not_finite
from seqexport.runtimes.manifest import MOST_TOKENS as MOST_POSITION
from seqexport.runtimes.manifest import Manifest

Array = NDArray[Any]
PREFILL_LENGTHS = (16, 9)
STEPS = 8
LONGEST = max(PREFILL_LENGTHS) + STEPS
"""Tokens of the text that is recorded."""

LATE_PREFILL, LATE_STEPS = 5, 3


MOST_ROWS, MOST_TOKENS, MOST_TEXTS = 16, 1024, 64
"""Of a reference that is read: sequences, tokens of all of them, and late texts."""


@dataclass(frozen=True)
class Reference:
    """Recorded inputs and answers.

    Attributes:
        tokens: int64 [B, L], the prefill.
        seq_lens: int32 [B], its valid tokens.
        next_tokens: int64 [B, STEPS], fed one by one after it.
        answers: by name, float64: ``prefill.logits`` [B, V], ``step<i>.logits`` [B, V], and the first sequence's states
            after all of it, ``end.<state>`` [1, ...]; of caches the tokens from ``start`` on.
        torch_errors: PyTorch's relative error in the bundle's dtype: ``logits``, worst over positions, and each state;
            of a late text, its worst over all texts.
        start: tokens that made-up caches hold before it.
        late: the same of texts that begin later; None where an older seqexport did not record them.
        windows: tokens that the original's layers with sliding windows see.
    """

    tokens: Tokens
    seq_lens: Lengths
    next_tokens: Tokens
    answers: dict[str, Array] = field(default_factory=dict)
    torch_errors: dict[str, float] = field(default_factory=dict)
    start: int = 0
    late: tuple[Reference, ...] | None = None
    windows: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Tokens of the longest sequence after all of it."""
        return self.start + int(self.seq_lens.max()) + self.next_tokens.shape[1]


def example_inputs(vocab_size: int, capacity: int | None, seed: int = 0) -> Reference:
    """A ragged batch that fits the capacity: one text of random tokens, of which each sequence is another part.

    So one pass over the text answers for every sequence; it is most of the cost of recording a large model.
    """
    room = 10**9 if capacity is None else max(capacity - STEPS, 1)
    seq_lens = np.array([min(n, room) for n in PREFILL_LENGTHS], np.int32)
    steps = STEPS if capacity is None else max(min(STEPS, capacity - int(seq_lens.max())), 0)
    text = np.random.default_rng(seed).integers(0, vocab_size, int(seq_lens.max()) + steps)
    tokens = np.where(np.arange(seq_lens.max()) < seq_lens[:, None], text[: seq_lens.max()], 0)
    return Reference(tokens, seq_lens, text[seq_lens[:, None] + np.arange(steps)])


def replay(session: Session, inputs: Reference, chunk: int | None = None) -> Iterator[tuple[str, Array]]:
    """Feed the recorded inputs and give each answer by its name; ``chunk``: prefill that many tokens at a time."""
    length = inputs.tokens.shape[1]
    last = np.zeros((session.batch, session.manifest.vocab_size))
    for start in range(0, length, chunk or length):
        part = inputs.tokens[:, start : start + (chunk or length)]
        valid = np.clip(inputs.seq_lens - start, 0, part.shape[1]).astype(np.int32)
        logits = session.prefill(part, valid)
        last = np.where((valid > 0)[:, None], _last_valid(logits, valid), last)
    yield "prefill.logits", last
    for step in range(inputs.next_tokens.shape[1]):
        yield f"step{step}.logits", session.step(inputs.next_tokens[:, step])
    for name, value in _new(session.manifest, session.read_states(), inputs.start).items():
        yield f"end.{name}", value


def open_session(runner: Runner, inputs: Reference, like: Reference) -> Session:
    """A session that is ready for ``replay``; ``like``: the text from 0 on, whose states made-up ones resemble."""
    session = runner.session(len(inputs.seq_lens), inputs.end)
    if inputs.start:
        real = {spec.past_name: like.answers[f"end.{spec.past_name}"] for spec in runner.manifest.states}
        session.write_states(made_up(runner.manifest, real, inputs.start), np.array([inputs.start], np.int32))
    return session


def _new(manifest: Manifest, states: States, start: int) -> States:
    """The first sequence's states [1, ...]; of caches the tokens from ``start`` on."""
    return {s.past_name: states[s.past_name][:1, :, start if s.grows else 0 :] for s in manifest.states}


def _last_valid(logits: Array, seq_lens: Lengths) -> Array:
    if logits.shape[1] == 1:
        return logits[:, 0]
    rows: Array = logits[np.arange(len(seq_lens)), np.maximum(seq_lens - 1, 0)]
    return rows


def record(original: Runner, float64: Runner, windows: Sequence[int] = ()) -> Reference:
    """Run the original in its own dtype and in float64 over the inputs' text, whole, and over the late texts.

    Both runners give the logits of every token; what decode steps must answer stands in the logits of the one pass.

    Raises:
        UserError: a logit or a state is not finite.
    """
    inputs = example_inputs(original.manifest.vocab_size, original.manifest.capacity)
    whole = _recorded(inputs, original, float64, inputs)
    length = LATE_PREFILL + LATE_STEPS
    late = [
        _recorded(_late_inputs(inputs, start), original, float64, whole)
        for start in starts(original.manifest, windows, inputs.end, length)
    ]
    worst = {  # few positions alone say little
        name: max(case.torch_errors[name] for case in (whole, *late)) for name in whole.torch_errors
    }
    late = [replace(case, torch_errors=worst) for case in late]
    return replace(whole, late=tuple(late), windows=tuple(windows))


def _late_inputs(inputs: Reference, start: int) -> Reference:
    """The first tokens of the first sequence, after made-up caches of ``start`` tokens."""
    text = np.concatenate([inputs.tokens[:1], inputs.next_tokens[:1]], axis=1)[:, : LATE_PREFILL + LATE_STEPS]
    length = np.array([LATE_PREFILL], np.int32)
    return Reference(text[:, :LATE_PREFILL], length, text[:, LATE_PREFILL:], start=start)


def _recorded(inputs: Reference, original: Runner, float64: Runner, like: Reference) -> Reference:
    true_logits, true_states = _whole(float64, inputs, like)
    own_logits, own_states = _whole(original, inputs, like)
    last = inputs.seq_lens - 1
    answers = {"prefill.logits": true_logits[last]}
    answers |= {f"step{i}.logits": true_logits[last + 1 + i] for i in range(inputs.next_tokens.shape[1])}
    answers |= {f"end.{name}": value for name, value in true_states.items()}
    errors = {"logits": max(map(relative_error, own_logits, true_logits))}
    errors |= {name: relative_error(value, true_states[name]) for name, value in own_states.items()}
    return replace(inputs, answers={n: np.asarray(x, np.float64) for n, x in answers.items()}, torch_errors=errors)


def _whole(runner: Runner, inputs: Reference, like: Reference) -> tuple[Array, States]:
    """Logits [n, V] of the first sequence, and its states at the end."""
    row = replace(inputs, seq_lens=inputs.seq_lens[:1])
    with open_session(runner, row, like) as session:
        logits = session.prefill(np.concatenate([inputs.tokens[:1], inputs.next_tokens[:1]], axis=1))[0]
        states = _new(session.manifest, session.read_states(), inputs.start)
    for name, value in {**states, "logits": logits}.items():
        if told := not_finite(value):
            raise UserError(_original_not_finite(runner, name, told))
    return logits, states


def _original_not_finite(runner: Runner, name: str, told: str) -> str:
    dtype = runner.manifest.dtype
    if getattr(runner, "arithmetic", "native") == "float64":
        return f"{name} of the original is not finite even in float64: {told}; its weights are not a working model's"
    return f"{name} of PyTorch's own run in {dtype} is not finite: {told}; {ADVICE[dtype]}"


def relative_error(actual: Array, expected: Array) -> float:
    """||actual - expected|| / ||expected|| in float64; infinite where a value is missing or not finite."""
    if actual.shape != expected.shape or not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return float("inf")
    expected = expected.astype(np.float64)
    norm = float(np.linalg.norm(expected))
    distance = float(np.linalg.norm(actual.astype(np.float64) - expected))
    return distance / norm if norm > 0 else distance


def write_reference(path: Path, reference: Reference) -> None:
    tensors: dict[str, Array] = {
        "tokens": reference.tokens,
        "seq_lens": reference.seq_lens,
        "next_tokens": reference.next_tokens,
    }
    for case in (reference, *(reference.late or ())):
        tensors |= {f"{_prefix(case)}{n}": np.ascontiguousarray(x) for n, x in case.answers.items()}
    metadata = {
        "torch_errors": reference.torch_errors,
        "late": {str(case.start): case.torch_errors for case in reference.late or ()},
        "windows": reference.windows,
    }
    texts = {name: json.dumps(value, allow_nan=False) for name, value in metadata.items()}
    path.write_bytes(save(tensors, metadata=texts))


def _prefix(case: Reference) -> str:
    return f"late{case.start}." if case.start else "answer."


def read_reference(bundle: Bundle) -> Reference:
    """Read what was recorded with a bundle.

    Raises:
        UserError: there is none, or it is damaged or of another model.
    """
    manifest = bundle.manifest
    with held_reference(bundle.reference, "export the model again") as (file, metadata):
        tokens, seq_lens, following = (array(file, name, MOST_TOKENS) for name in ("tokens", "seq_lens", "next_tokens"))
        inputs = Reference(tokens, seq_lens, following)
        check_inputs(inputs, manifest)
        whole = _read(inputs, file, manifest, metadata["torch_errors"])
        if "late" not in metadata:
            return whole
        if len(metadata["late"]) > MOST_TEXTS:
            raise ValueError(f"{len(metadata['late'])} late texts; expected at most {MOST_TEXTS}")
        late = [_read(_late_inputs(inputs, int(n)), file, manifest, each) for n, each in metadata["late"].items()]
        return replace(whole, late=tuple(late), windows=tuple(map(int, metadata["windows"])))


def check_inputs(inputs: Reference, manifest: Manifest) -> None:
    """Raises ValueError: tokens or lengths that no export records, or that the manifest's model does not take."""
    tokens, lens, following = inputs.tokens, inputs.seq_lens, inputs.next_tokens
    rows, length = tokens.shape if tokens.ndim == 2 else (0, 0)
    steps = following.shape[1] if following.ndim == 2 else 0
    kinds = {array.dtype.kind for array in (tokens, lens, following)}
    if not (0 < rows <= MOST_ROWS and length and lens.shape == (rows,) and following.shape == (rows, steps)):
        raise ValueError("tokens, seq_lens and next_tokens are not [B, L], [B] and [B, n]")
    if kinds != {"i"} or not (lens.min() >= 1 and lens.max() <= length):
        raise ValueError(f"seq_lens are {lens.tolist()}; expected 1 to {length}")
    if any(part.size and not (part.min() >= 0 and part.max() < manifest.vocab_size) for part in (tokens, following)):
        raise ValueError(f"its tokens are not all from 0 to {manifest.vocab_size - 1}")


def check_start(inputs: Reference, manifest: Manifest) -> None:
    """Raises ValueError: a text that the cache does not hold, or that takes more memory than any that is recorded."""
    if inputs.start < 0 or inputs.end > (MOST_POSITION if manifest.capacity is None else manifest.capacity):
        raise ValueError(f"a text ends at {inputs.end}, and the capacity is {manifest.capacity}")
    if manifest.state_bytes(1, inputs.start) > manifest.state_bytes(1, 0) + MOST_BYTES:
        raise ValueError(f"a text begins at {inputs.start}, after more tokens than are ever made up")


def shapes(inputs: Reference, manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Of every answer to the inputs."""
    rows, names = len(inputs.seq_lens), ["prefill", *(f"step{step}" for step in range(inputs.next_tokens.shape[1]))]
    read = inputs.end - inputs.start
    logits = {f"{name}.logits": (rows, manifest.vocab_size) for name in names}
    return logits | {f"end.{spec.past_name}": spec.sizes(1, read) for spec in manifest.states}


def _read(inputs: Reference, file: Any, manifest: Manifest, errors: dict[str, Any]) -> Reference:
    """The answers to inputs, each in the shape that the manifest's model gives."""
    check_start(inputs, manifest)
    answers = {}
    for name, shape in shapes(inputs, manifest).items():
        answers[name] = array(file, f"{_prefix(inputs)}{name}", math.prod(shape))
        if answers[name].shape != shape or answers[name].dtype.kind != "f":
            found = f"{answers[name].dtype} {list(answers[name].shape)}"
            raise ValueError(f"{name} is {found}, expected floats {list(shape)}")
    quantities = ["logits", *(spec.past_name for spec in manifest.states)]
    if missing := set(quantities) - errors.keys():
        raise ValueError(f"it lacks PyTorch's error of {min(missing)}")
    return replace(inputs, answers=answers, torch_errors={name: float(errors[name]) for name in quantities})
