"""What the PyTorch original answers, recorded in the bundle, so that a machine without PyTorch can verify an engine.

``reference.safetensors`` holds the inputs of one ragged prefill and some decode steps, and for each of them the logits
of the original computed in float64, and its states at the end. Its metadata holds PyTorch's own relative error in the
bundle's dtype, of the logits over every position and of each state: ours may be at most twice as large.
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
from safetensors.numpy import save

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Lengths, Runner, Session, Tokens

Array = NDArray[Any]
PREFILL_LENGTHS = (16, 9)
STEPS = 8


@dataclass(frozen=True)
class Reference:
    """Recorded inputs and answers.

    Attributes:
        tokens: int64 [B, L], the prefill.
        seq_lens: int32 [B], its valid tokens.
        next_tokens: int64 [B, STEPS], fed one by one after it.
        answers: by name, float64: ``prefill.logits`` [B, V], ``step<i>.logits`` [B, V], ``end.<state>``.
        torch_errors: PyTorch's relative error in the bundle's dtype: ``logits``, worst over positions, and each state.
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
    for step in range(inputs.next_tokens.shape[1]):
        yield f"step{step}.logits", session.step(inputs.next_tokens[:, step])
    for name, value in session.read_states().items():
        yield f"end.{name}", _blank_unused(value, session) if value.ndim == 4 else value


def _blank_unused(cache: Array, session: Session) -> Array:
    used = np.arange(cache.shape[2]) < session.lengths[:, None]
    return np.where(used[:, None, :, None], cache, 0)


def _last_valid(logits: Array, seq_lens: Lengths) -> Array:
    if logits.shape[1] == 1:
        return logits[:, 0]
    rows: Array = logits[np.arange(len(seq_lens)), np.maximum(seq_lens - 1, 0)]
    return rows


def record(original: Runner, oracle: Runner) -> Reference:
    """Run the original in its own dtype and in float64 on the same inputs, each row whole.

    Both runners give the logits of every token; what decode steps must answer stands in the logits of one whole pass.
    """
    inputs = example_inputs(original.contract.vocab_size, original.contract.capacity)
    rows = [_row(inputs, row) for row in range(len(inputs.seq_lens))]
    true_logits, true_states = zip(*(_whole(oracle, row) for row in rows), strict=True)
    own_logits, own_states = zip(*(_whole(original, row) for row in rows), strict=True)
    answers = {"prefill.logits": _logits_after(true_logits, inputs, 0)}
    for step in range(inputs.next_tokens.shape[1]):
        answers[f"step{step}.logits"] = _logits_after(true_logits, inputs, step + 1)
    errors = {"logits": max(_worst_position(*pair) for pair in zip(own_logits, true_logits, strict=True))}
    for name in true_states[0]:
        true, own = _stack([states[name] for states in true_states]), _stack([states[name] for states in own_states])
        answers[f"end.{name}"] = true
        errors[name] = relative_error(own, true)
    return Reference(inputs.tokens, inputs.seq_lens, inputs.next_tokens, answers, errors)


def _row(inputs: Reference, row: int) -> Tokens:
    """One row's prefill and next tokens, int64 [1, n]."""
    return np.concatenate([inputs.tokens[row, : inputs.seq_lens[row]], inputs.next_tokens[row]])[None]


def _whole(runner: Runner, tokens: Tokens) -> tuple[Array, dict[str, Array]]:
    """Logits [n, V] and the states after one row."""
    with runner.session(1, tokens.shape[1]) as session:
        return session.prefill(tokens)[0], session.read_states()


def _logits_after(logits: tuple[Array, ...], inputs: Reference, steps: int) -> Array:
    rows = zip(logits, inputs.seq_lens, strict=True)
    return np.stack([row[length - 1 + steps] for row, length in rows]).astype(np.float64)


def _worst_position(actual: Array, expected: Array) -> float:
    return max(relative_error(a, e) for a, e in zip(actual, expected, strict=True))


def _stack(states: list[Array]) -> Array:
    """Rows of a state as one batch; caches are filled up with zeros to the longest."""
    sizes = np.max([state.shape for state in states], axis=0)
    batch = np.zeros((len(states), *sizes[1:]))
    for row, state in enumerate(states):
        part = tuple(slice(size) for size in state.shape[1:])
        batch[row][part] = state[0]
    return batch


def relative_error(actual: Array, expected: Array) -> float:
    """||actual - expected|| / ||expected|| in float64; infinite where a value is missing or not finite."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
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
    tensors |= {f"answer.{name}": np.ascontiguousarray(value) for name, value in reference.answers.items()}
    path.write_bytes(save(tensors, metadata={"torch_errors": json.dumps(reference.torch_errors)}))


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
            errors = {str(k): float(v) for k, v in json.loads(file.metadata()["torch_errors"]).items()}
        answers = {k.removeprefix("answer."): v for k, v in tensors.items() if k.startswith("answer.")}
        return Reference(tensors["tokens"], tensors["seq_lens"], tensors["next_tokens"], answers, errors)
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); export the model again") from error
