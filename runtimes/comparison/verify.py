"""Is a backend as accurate as PyTorch itself? Answered from the bundle's recorded reference, without PyTorch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner, Session
from seqexport.runtimes.comparison.accuracy import allowed
from seqexport.runtimes.comparison.reference import Reference, open_session, relative_error, replay
from seqexport.runtimes.finite import not_finite
from seqexport.runtimes.manifest import Manifest

CHUNKS = (None, 1, 7)
LATE_CHUNKS = (None, 1)


@dataclass(frozen=True)
class Check:
    """One quantity, worst over layers and steps: relative errors against the original in float64.

    Attributes:
        error: of the backend; None where a value is not finite.
        torch_error: PyTorch's own in the bundle's dtype; None where a value was not finite.
        allowed: the most that ``error`` may be; None where PyTorch gave no bound.
        not_finite: which value is not, and how many of it, here or in PyTorch.
    """

    name: str
    error: float | None
    torch_error: float | None
    allowed: float | None
    not_finite: str | None = None

    @property
    def passed(self) -> bool:
        """Within bounds; what is not finite never is."""
        return self.error is not None and self.allowed is not None and self.error <= self.allowed


def verify(
    runner: Runner, reference: Reference, not_checked: Callable[[str], None] = lambda what: None
) -> Iterator[Check]:
    """Whole prefill, the same in chunks, and decode steps: logits and states, each within twice PyTorch's own error.

    PyTorch's error is taken as at least one rounding in the dtype, for tensors that it happens to get exactly.

    Args:
        runner: what is verified.
        reference: recorded with its bundle.
        not_checked: is told, in a phrase each, what the reference or the runner leaves open.

    Raises:
        UserError: the backend fails.
    """
    reached = [reference]
    for chunk in CHUNKS:
        with open_session(runner, reference, reference) as session:
            yield from _checks(session, reference, chunk)
    for late in reference.late or ():
        for chunk in LATE_CHUNKS:
            try:
                session = open_session(runner, late, reference)
            except UserError as error:  # an engine may be built for fewer tokens, and a device hold fewer
                not_checked(f"the text from position {late.start:,} on: {error}")
                break
            with session:
                yield from _checks(session, late, chunk)
        else:
            reached.append(late)
    for what in unreached(runner.manifest, reference, reached):
        not_checked(what)


def unreached(manifest: Manifest, reference: Reference, reached: Sequence[Reference]) -> Iterator[str]:
    """What none of the checked texts has met, in a phrase each."""
    if manifest.capacity is None:
        return
    most = max(case.end for case in reached)
    if reference.late is None and most < manifest.capacity:
        yield "sliding windows and late positions: an older seqexport recorded the reference; export the model again"
        return
    for window in reference.windows:
        if most <= window < manifest.capacity:
            yield f"the sliding window of {window:,} tokens: {most:,} were in the cache"
    if most < manifest.capacity:
        yield f"positions from {most:,} to {manifest.capacity - 1:,}"


def _checks(session: Session, reference: Reference, chunk: int | None) -> Iterator[Check]:
    """One for each kind of quantity."""
    groups: dict[str, list[str]] = defaultdict(list)
    errors, broken = dict[str, float](), dict[str, str]()
    for name, value in replay(session, reference, chunk):
        groups[_title(name)].append(name)
        errors[name] = relative_error(value, reference.answers[name])
        if told := not_finite(value):
            broken[name] = f"{name}: {told}"
        elif not isfinite(reference.torch_errors[_quantity(name)]) or not_finite(reference.answers[name]):
            broken[name] = f"{_quantity(name)} of PyTorch's own run"
    how = "whole" if chunk is None else f"in chunks of {chunk}"
    where = f", from position {reference.start:,}" if reference.start else ""
    for title, names in groups.items():
        own = max(reference.torch_errors[_quantity(name)] for name in names)
        bound = allowed(own, session.manifest.dtype)
        error = max(errors[name] for name in names)
        told = next((broken[name] for name in names if name in broken), None)
        yield Check(
            f"{title}, prefill {how}{where}",
            _finite(error),
            _finite(own),
            bound,
            told,
        )


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _quantity(name: str) -> str:
    """``step3.logits`` to ``logits``, ``end.<state>`` to ``<state>``."""
    return name.split(".", 1)[1]


def _title(name: str) -> str:
    when, quantity = name.split(".", 1)
    if quantity == "logits":
        return "logits after prefill" if when == "prefill" else "logits along decode"
    return f"{quantity.rsplit('.', 1)[-1]} at the end"
