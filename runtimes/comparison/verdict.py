"""What a comparison says, in sentences computed from its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Literal

from seqexport.runtimes import units
from seqexport.runtimes.backends import backends
from seqexport.runtimes.comparison.accuracy import Check
from seqexport.runtimes.comparison.compare import TORCH, BackendResult, BundleResult, Comparison
from seqexport.runtimes.comparison.measure import Point
from seqexport.runtimes.finite import ADVICE

LEVEL = 0.05
"""Below this share a difference in speed is none."""

FAR = 16
"""Times the longest measured length beyond which a crossing is not guessed."""


@dataclass(frozen=True)
class Verdict:
    """A sentence, and whether it is good news; None: neither."""

    good: bool | None
    text: str


@dataclass(frozen=True)
class Crossing:
    """Where the linear model's prefill becomes as fast as the quadratic one's.

    Attributes:
        where: ``inside`` the measured lengths, ``beyond`` them, ``always`` or ``never`` ahead in all of them.
        tokens: the length; beyond the measured ones if the curves go on as they end; None if there is none.
        seconds: time to first token there.
        longest: the longest length measured on both.
        models: whose curves cross, where others are there too.
    """

    backend: str
    where: Literal["inside", "beyond", "always", "never"]
    tokens: float | None
    seconds: float | None
    longest: int
    models: str = ""


def backend_name(backend: str) -> str:
    found = backends().get(backend)
    return backend if found is None else found.label


def measured(result: BackendResult) -> list[Point]:
    """The points of the smallest batch that have numbers, by length."""
    batch = min((p.batch for p in result.points), default=0)
    return [p for p in result.points if p.batch == batch and p.prefill_seconds is not None]


def result_of(bundle: BundleResult, backend: str) -> BackendResult | None:
    return next((result for result in bundle.results if result.backend == backend), None)


def verdicts(comparison: Comparison) -> list[Verdict]:
    """The headline first: are the answers the same; then speed, then where the curves cross."""
    names = dict.fromkeys(result.backend for bundle in comparison.bundles for result in bundle.results)
    ours = [name for name in names if name != TORCH]
    found = [_same_answers(comparison, name) for name in ours]
    if not ours:
        found.append(Verdict(None, "Only PyTorch was run: there is nothing to compare it with."))
    found += [_failure(bundle, r) for bundle in comparison.bundles for r in bundle.results if r.error]
    found += [speed for name in ours for bundle in comparison.bundles if (speed := _speed(bundle, name))]
    return found + [Verdict(None, sentence(each)) for each in crossings(comparison)]


def _same_answers(comparison: Comparison, backend: str) -> Verdict:
    name = backend_name(backend)
    ran = [(b, r) for b in comparison.bundles if (r := result_of(b, backend)) and not r.error]
    judged = [(b, r) for b, r in ran if r.checks]
    if not ran:
        return Verdict(False, f"{name} could not run.")
    if not judged:
        return Verdict(None, f"{name} ran, but {ran[0][0].note or 'its answers were not checked'}.")
    failed = [(b, check) for b, r in judged for check in r.checks if not check.passed]
    if failed:
        broken = next(((b, check) for b, check in failed if check.own is None), None)
        if broken is not None:
            return Verdict(False, _not_finite(*broken))
        bundle, worst = max(failed, key=lambda pair: _excess(pair[1].error, pair[1].allowed))
        return Verdict(
            False,
            f"{name} does not give the same answers: {worst.what} of {bundle.name} off by "
            f"{units.error(worst.error)}, allowed {units.error(worst.allowed)} "
            f"({len(failed)} of {sum(len(r.checks) for _, r in judged)} checks failed).",
        )
    ratio = max(ratio_to_own(b, r) or 0.0 for b, r in judged)
    return Verdict(True, f"{name} gives the same answers: its error is {units.ratio(ratio)} PyTorch’s own.")


def _not_finite(bundle: BundleResult, check: Check) -> str:
    return f"PyTorch’s own {check.what} of {bundle.name} are not finite in {bundle.dtype}: {ADVICE[bundle.dtype]}."


def _excess(error: float | None, allowed: float) -> float:
    return float("inf") if error is None else error / allowed


def ratio_to_own(bundle: BundleResult, result: BackendResult) -> float | None:
    """Error of the logits of all decode steps, in units of PyTorch's own."""
    own = bundle.own.decode_error if bundle.own else None
    mine = result.accuracy.decode_error if result.accuracy else None
    return mine / own if mine is not None and own else None


def _failure(bundle: BundleResult, result: BackendResult) -> Verdict:
    return Verdict(False, f"{backend_name(result.backend)} failed on {bundle.name}: {result.error}.")


def _speed(bundle: BundleResult, backend: str) -> Verdict | None:
    """Against PyTorch, at the longest length that both were measured at."""
    ours, torch = result_of(bundle, backend), result_of(bundle, TORCH)
    pairs = _common(ours, torch) if ours and torch else []
    pairs = [(a, b) for a, b in pairs if a.decode_seconds and b.decode_seconds]
    if not pairs:
        return None
    a, b = pairs[-1]
    return Verdict(
        None,
        f"{bundle.name} on {backend_name(backend)} after {units.tokens(a.length)} tokens: first token in "
        f"{_beside(a.prefill_seconds, b.prefill_seconds)}, then one every "
        f"{_beside(a.decode_seconds, b.decode_seconds)}.",
    )


def _beside(ours: float | None, torch: float | None) -> str:
    assert ours
    assert torch
    faster = torch / ours
    if abs(faster - 1) < LEVEL:
        return f"{units.seconds(ours)} (PyTorch {units.seconds(torch)}, as fast)"
    how = f"{units.ratio(faster)} faster" if faster > 1 else f"{units.ratio(1 / faster)} slower"
    return f"{units.seconds(ours)} (PyTorch {units.seconds(torch)}, {how})"


def crossings(comparison: Comparison) -> list[Crossing]:
    """One for each backend that ran both a model whose states do not grow and one whose do."""
    linear = next((b for b in comparison.bundles if b.family == "mamba"), None)
    quadratic = next((b for b in comparison.bundles if b.family == "transformer"), None)
    if linear is None or quadratic is None:
        return []
    found = [_crossing(r, result_of(quadratic, r.backend)) for r in linear.results]
    models = f" ({linear.name} beside {quadratic.name})" if len(comparison.bundles) > 2 else ""
    return [replace(crossing, models=models) for crossing in found if crossing]


def _common(a: BackendResult, b: BackendResult) -> list[tuple[Point, Point]]:
    others = {point.length: point for point in measured(b)}
    return [(point, others[point.length]) for point in measured(a) if point.length in others]


def _crossing(linear: BackendResult, quadratic: BackendResult | None) -> Crossing | None:
    pairs = _common(linear, quadratic) if quadratic else []
    if len(pairs) < 2:
        return None
    lengths = [log(a.length) for a, _ in pairs]
    behind = [log((a.prefill_seconds or 1) / (b.prefill_seconds or 1)) for a, b in pairs]
    times = [log(a.prefill_seconds or 1) for a, _ in pairs]
    longest = pairs[-1][0].length
    for i in range(len(pairs) - 1, 0, -1):
        if behind[i - 1] > 0 >= behind[i]:
            return Crossing(linear.backend, "inside", *_at(lengths, behind, times, i), longest)
    if behind[-1] <= 0:
        return Crossing(linear.backend, "always", None, None, longest)
    if behind[-1] < behind[-2]:
        tokens, seconds = _at(lengths, behind, times, len(pairs) - 1)
        if tokens <= FAR * longest:
            return Crossing(linear.backend, "beyond", tokens, seconds, longest)
    return Crossing(linear.backend, "never", None, None, longest)


def _at(lengths: Sequence[float], behind: Sequence[float], times: Sequence[float], i: int) -> tuple[float, float]:
    """Tokens and seconds at which the line through points i-1 and i is even; straight in logarithms."""
    share = behind[i - 1] / (behind[i - 1] - behind[i])
    step, rise = lengths[i] - lengths[i - 1], times[i] - times[i - 1]
    return exp(lengths[i - 1] + share * step), exp(times[i - 1] + share * rise)


def sentence(crossing: Crossing) -> str:
    name, longest = backend_name(crossing.backend) + crossing.models, units.tokens(crossing.longest)
    if crossing.where == "inside":
        return (
            f"On {name} the linear scan overtakes quadratic attention at about "
            f"{units.about(crossing.tokens or 0)} tokens, inside the measured range."
        )
    if crossing.where == "always":
        return (
            f"On {name} the linear scan is ahead of attention at {longest} tokens, "
            "and at every shorter length measured."
        )
    if crossing.where == "beyond":
        return (
            f"On {name} attention is ahead up to the longest length measured, {longest} tokens; going on "
            f"as they end, the curves would cross near {units.about(crossing.tokens or 0)} tokens, "
            "outside the measured range."
        )
    return f"On {name} attention is ahead up to the longest length measured, {longest} tokens; no crossing is in sight."
