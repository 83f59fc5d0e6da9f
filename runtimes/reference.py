"""What the PyTorch original answers, recorded in the bundle, so that a machine without PyTorch can verify an engine.

``reference.safetensors`` holds the inputs of one ragged prefill and some decode steps, and for each of them the logits
and states of the original computed in float64. Its metadata holds, for each recorded tensor, PyTorch's own relative
error in the bundle's dtype: ours may be at most twice as large.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Lengths, Runner, Session, Tokens

Array = NDArray[Any]
PREFILL_LENGTHS = (16, 9)
STEPS = 3


@dataclass(frozen=True)
class Reference:
    """Recorded inputs and answers.

    Attributes:
        tokens: int64 [B, L], the prefill.
        seq_lens: int32 [B], its valid tokens.
        next_tokens: int64 [B, STEPS], fed one by one after it.
        answers: by name, float64: ``prefill.logits`` [B, V], ``prefill.<state>``, ``step<i>.logits``, ``end.<state>``.
        torch_errors: by the same names, PyTorch's relative error in the bundle's dtype.
    """

    tokens: Tokens
    seq_lens: Lengths
    next_tokens: Tokens
    answers: dict[str, Array] = field(default_factory=dict)
    torch_errors: dict[str, float] = field(default_factory=dict)


def example_inputs(vocab_size: int, capacity: int | None, seed: int = 0) -> Reference:
    """A ragged batch of random tokens that fits the capacity."""
    rng = np.random.default_rng(seed)
    room = 10**9 if capacity is None else max(capacity - STEPS, 1)
    seq_lens = np.array([min(n, room) for n in PREFILL_LENGTHS], np.int32)
    steps = STEPS if capacity is None else max(min(STEPS, capacity - int(seq_lens.max())), 0)
    tokens = rng.integers(0, vocab_size, (len(seq_lens), int(seq_lens.max())))
    return Reference(tokens, seq_lens, rng.integers(0, vocab_size, (len(seq_lens), steps)))


def replay(session: Session, inputs: Reference, chunk: int | None = None) -> Iterator[tuple[str, Array]]:
    """Feed the recorded inputs and give each answer by its name; ``chunk``: prefill that many tokens at a time."""
    length = inputs.tokens.shape[1]
    last = np.zeros((session.batch, session.contract.vocab_size))
    for start in range(0, length, chunk or length):
        part = inputs.tokens[:, start : start + (chunk or length)]
        valid = np.clip(inputs.seq_lens - start, 0, part.shape[1]).astype(np.int32)
        logits = session.prefill(part, valid)
        last = np.where((valid > 0)[:, None], _last_valid(logits, valid), last)
    yield "prefill.logits", last
    yield from _states("prefill", session)
    for step in range(inputs.next_tokens.shape[1]):
        yield f"step{step}.logits", session.step(inputs.next_tokens[:, step])
    yield from _states("end", session)


def _states(when: str, session: Session) -> Iterator[tuple[str, Array]]:
    for name, value in session.read_states().items():
        yield f"{when}.{name}", _blank_unused(value, session) if value.ndim == 4 else value


def _blank_unused(cache: Array, session: Session) -> Array:
    used = np.arange(cache.shape[2]) < session.lengths[:, None]
    return np.where(used[:, None, :, None], cache, 0)


def _last_valid(logits: Array, seq_lens: Lengths) -> Array:
    if logits.shape[1] == 1:
        return logits[:, 0]
    rows: Array = logits[np.arange(len(seq_lens)), np.maximum(seq_lens - 1, 0)]
    return rows


def record(original: Runner, oracle: Runner) -> Reference:
    """Run the original in its own dtype and in float64 on the same inputs."""
    inputs = example_inputs(original.contract.vocab_size, original.contract.capacity)
    capacity = int(inputs.seq_lens.max()) + inputs.next_tokens.shape[1]
    with oracle.session(len(inputs.seq_lens), capacity) as session:
        answers = {name: np.asarray(value, np.float64) for name, value in replay(session, inputs)}
    with original.session(len(inputs.seq_lens), capacity) as session:
        errors = {name: relative_error(value, answers[name]) for name, value in replay(session, inputs)}
    return Reference(inputs.tokens, inputs.seq_lens, inputs.next_tokens, answers, errors)


def relative_error(actual: Array, expected: Array) -> float:
    """||actual - expected|| / ||expected|| in float64; infinite where a value is missing or not finite."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    expected = expected.astype(np.float64)
    norm = float(np.linalg.norm(expected))
    distance = float(np.linalg.norm(actual.astype(np.float64) - expected))
    return distance / norm if norm > 0 else distance


def write_reference(path: Path, reference: Reference) -> None:
    tensors = {
        "tokens": reference.tokens,
        "seq_lens": reference.seq_lens,
        "next_tokens": reference.next_tokens,
    }
    tensors |= {f"answer.{name}": np.ascontiguousarray(value) for name, value in reference.answers.items()}
    save_file(tensors, path, metadata={"torch_errors": json.dumps(reference.torch_errors)})


def read_reference(path: Path) -> Reference:
    """Read a recorded reference.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"{path} is not there: the bundle was exported without a reference; export it again")
    try:
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            errors = json.loads(file.metadata()["torch_errors"])
        answers = {k.removeprefix("answer."): v for k, v in tensors.items() if k.startswith("answer.")}
        return Reference(tensors["tokens"], tensors["seq_lens"], tensors["next_tokens"], answers, errors)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); export the model again") from error
