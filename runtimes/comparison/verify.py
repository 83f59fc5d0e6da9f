"""Is a backend as accurate as PyTorch itself? Answered from the bundle's recorded reference, without PyTorch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner
from seqexport.runtimes.comparison.accuracy import ALLOWED, ROUNDING
from seqexport.runtimes.comparison.reference import Reference, relative_error, replay

CHUNKS = (None, 1, 7)


@dataclass(frozen=True)
class Check:
    """One quantity, worst over layers and steps: relative errors against the original in float64."""

    name: str
    error: float
    torch_error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed


def verify(runner: Runner, reference: Reference) -> Iterator[Check]:
    """Whole prefill, the same in chunks, and decode steps: logits and states, each within twice PyTorch's own error.

    PyTorch's error is taken as at least one rounding in the dtype, for tensors that it happens to get exactly.

    Raises:
        UserError: the reference is of another model.
    """
    _check_whole(runner, reference)
    for chunk in CHUNKS:
        with runner.session(len(reference.seq_lens), _capacity(reference)) as session:
            ours = {n: relative_error(v, reference.answers[n]) for n, v in replay(session, reference, chunk)}
        yield from _summed_up(ours, reference, chunk, runner.contract.dtype)


def _check_whole(runner: Runner, reference: Reference) -> None:
    states = [spec.past_name for spec in runner.contract.states]
    steps = [f"step{step}.logits" for step in range(reference.next_tokens.shape[1])]
    missing = {"prefill.logits", *steps, *(f"end.{name}" for name in states)} - reference.answers.keys()
    missing |= {"logits", *states} - reference.torch_errors.keys()
    if missing:
        raise UserError(f"{runner.bundle.reference} lacks {min(missing)}; export the model again")


def _capacity(reference: Reference) -> int:
    return int(reference.seq_lens.max()) + reference.next_tokens.shape[1]


def _summed_up(ours: dict[str, float], reference: Reference, chunk: int | None, dtype: str) -> Iterator[Check]:
    how = "whole" if chunk is None else f"in chunks of {chunk}"
    groups: dict[str, list[str]] = defaultdict(list)
    for name in ours:
        groups[_title(name)].append(name)
    for title, names in groups.items():
        torch_error = max(reference.torch_errors[_quantity(name)] for name in names)
        allowed = ALLOWED * max(torch_error, ROUNDING[dtype])
        yield Check(f"{title}, prefill {how}", max(ours[name] for name in names), torch_error, allowed)


def _quantity(name: str) -> str:
    """``step3.logits`` to ``logits``, ``end.<state>`` to ``<state>``."""
    return name.split(".", 1)[1]


def _title(name: str) -> str:
    when, quantity = name.split(".", 1)
    if quantity == "logits":
        return "logits after prefill" if when == "prefill" else "logits along decode"
    return f"{quantity.rsplit('.', 1)[-1]} at the end"
