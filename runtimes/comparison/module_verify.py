"""Does a backend answer as the PyTorch original of any module? From what the bundle has recorded, without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite

from seqexport.plugins.errors import UserError
from seqexport.runtimes.comparison.accuracy import ROUNDING, allowed
from seqexport.runtimes.comparison.module_reference import Case, Errors, ModuleReference, read_module_reference
from seqexport.runtimes.comparison.verify import Check
from seqexport.runtimes.finite import not_finite
from seqexport.runtimes.manifest import Manifest
from seqexport.runtimes.module import Arrays, ModuleRunner, OtherSizes

LEAST = 2
"""Roundings in the dtype that PyTorch's own error is at least taken for. Where a last product has one to three rows, as
the scores of an image have, PyTorch adds it up in lanes, with a third of its error at more rows (8e-8 and 2.0e-7 for
128 terms in float32, seen); ONNX Runtime has the latter at any number of rows."""


def verify_module(
    runner: ModuleRunner, reference: ModuleReference, not_checked: Callable[[str], None] = lambda what: None
) -> Iterator[Check]:
    """Every output over all recorded calls, each within twice PyTorch's own error, taken as at least ``LEAST``.

    Args:
        runner: what is verified.
        reference: recorded with its bundle.
        not_checked: is told, in a phrase each, what the reference or the runner leaves open.

    Raises:
        UserError: the runner fails, or takes none of the recorded calls.
    """
    errors, broken, refused = Errors(), dict[str, str](), list[str]()
    for case in reference.cases:
        try:
            answers = runner(taken(runner, case))
        except OtherSizes as error:
            refused.append(f"{said(case, runner.manifest)}: {error}")
            continue
        _note_broken(answers, broken)
        errors.add(answers, case.answers)
    if len(refused) == len(reference.cases):
        raise UserError(f"{runner.bundle.path}: none of the recorded calls runs; {refused[0]}")
    for axis, why in reference.not_recorded.items():
        not_checked(f"other sizes of {axis}: {why}")
    for what in refused:
        not_checked(what)
    for name, own in reference.torch_errors.items():
        yield _check(name, errors[name], own, runner.manifest.dtype, broken.get(name))


def verify_bundle(runner: ModuleRunner, not_checked: Callable[[str], None] = lambda what: None) -> Iterator[Check]:
    """``verify_module`` with the reference of the runner's bundle."""
    return verify_module(runner, read_module_reference(runner.bundle), not_checked)


def taken(runner: ModuleRunner, case: Case) -> Arrays:
    """The inputs of a recorded call that a runner takes: a graph lacks those that nothing reads."""
    return {name: case.inputs[name] for name in runner.input_names if name in case.inputs}


def said(case: Case, manifest: Manifest) -> str:
    """The sizes of a call in words."""
    return ", ".join(f"{axis} {size}" for axis, size in case.sizes(manifest).items()) or "the only size"


def _note_broken(answers: Arrays, broken: dict[str, str]) -> None:
    for name, value in answers.items():
        if told := not_finite(value):
            broken.setdefault(name, told)


def _check(name: str, error: float, own: float, dtype: str, broken: str | None) -> Check:
    finite = {"error": error if isfinite(error) else None, "torch_error": own if isfinite(own) else None}
    most = allowed(max(own, LEAST * ROUNDING[dtype]), dtype)
    return Check(name, allowed=most, not_finite=broken, **finite)
