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
        answers: by name, float64: ``prefill.logits`` [B, V], ``step<i>.logits`` [B, V], and the first row's states
            after all of it, ``end.<state>`` [1, ...].
        torch_errors: PyTorch's relative error in the bundle's dtype: ``logits``, worst over positions, and each state.
    """

    tokens: Tokens
    seq_lens: Lengths
    next_tokens: Tokens
    answers: dict[str, Array] = field(default_factory=dict)
    torch_errors: dict[str, float] = field(default_factory=dict)


def example_inputs(vocab_size: int, capacity: int | None, seed: int = 0) -> Reference:
    """A ragged batch that fits the capacity: one text of random tokens, of which each row has read another part.

    So one pass over the text answers for every row; it is most of the cost of recording a large model.
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
        yield f"end.{name}", value[:1]


def _last_valid(logits: Array, seq_lens: Lengths) -> Array:
    if logits.shape[1] == 1:
        return logits[:, 0]
    rows: Array = logits[np.arange(len(seq_lens)), np.maximum(seq_lens - 1, 0)]
    return rows


def record(original: Runner, oracle: Runner) -> Reference:
    """Run the original in its own dtype and in float64 over the inputs' text, whole.

    Both runners give the logits of every token; what decode steps must answer stands in the logits of the one pass.
    """
    inputs = example_inputs(original.contract.vocab_size, original.contract.capacity)
    text = np.concatenate([inputs.tokens[0], inputs.next_tokens[0]])[None]
    true_logits, true_states = _whole(oracle, text)
    own_logits, own_states = _whole(original, text)
    last = inputs.seq_lens - 1
    answers = {"prefill.logits": true_logits[last]}
    answers |= {f"step{i}.logits": true_logits[last + 1 + i] for i in range(inputs.next_tokens.shape[1])}
    answers |= {f"end.{name}": value for name, value in true_states.items()}
    errors = {"logits": max(map(relative_error, own_logits, true_logits))}
    errors |= {name: relative_error(value, true_states[name]) for name, value in own_states.items()}
    wide = {name: np.asarray(value, np.float64) for name, value in answers.items()}
    return Reference(inputs.tokens, inputs.seq_lens, inputs.next_tokens, wide, errors)


def _whole(runner: Runner, tokens: Tokens) -> tuple[Array, dict[str, Array]]:
    """Logits [n, V] and the states after one row [1, n]."""
    with runner.session(1, tokens.shape[1]) as session:
        return session.prefill(tokens)[0], session.read_states()


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
