"""The tests of the kernels and of the ops on this GPU: every op in every dtype against float64, over hard shapes."""

from __future__ import annotations

import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import SOURCE, LeftOut, Setting, StepFailed
from seqexport.plugins import library

FOLDERS = ("tests/kernels", "tests/ops")
TESTS_FAILED, PROCESSES = 1, 14


def run(setting: Setting) -> Iterator[Row]:
    library.require("kernels")
    built = {"SEQEXPORT_PLUGINS": str(library.folder())}  # which the tests take for none unless they are told
    yield from run_tests(setting, FOLDERS, log="kernel-tests", env=built)


def run_tests(
    setting: Setting,
    paths: Sequence[str],
    *,
    log: str,
    env: Mapping[str, str] | None = None,
    select: str = "",
    processes: int = PROCESSES,
) -> Iterator[Row]:
    """The tests in these folders and files of the checkout, those that ``-k select`` picks: a row for each file.

    Raises:
        LeftOut: there is no pytest, or this is no checkout.
        StepFailed: pytest itself failed.
    """
    for needed in ("pytest", "torch"):
        if importlib.util.find_spec(needed) is None:
            raise LeftOut(f"no {needed} in {sys.executable}")
    if not all((SOURCE / path).exists() for path in paths):
        raise LeftOut(f"no tests in {SOURCE}: they are in the source checkout, not in the wheel")
    results = setting.work / f"{log}.xml"
    results.unlink(missing_ok=True)
    many = ["-n", str(processes)] if importlib.util.find_spec("xdist") else []
    plain = ["-p", "no:cacheprovider", "-p", "no:benchmark", "--durations=10", *(["-k", select] if select else [])]
    command = [sys.executable, "-m", "pytest", *paths, *many, *plain, f"--junitxml={results}"]
    setting.run(command, log=log, env=env, cwd=SOURCE, allowed=(0, TESTS_FAILED))
    if not results.exists():
        raise StepFailed("pytest wrote no results")
    for row in rows(results):
        yield msgspec.structs.replace(row, detail={**row.detail, "selected": select}) if select else row


def rows(results: Path) -> Iterator[Row]:
    """One for each test file, from pytest's JUnit XML, with what its tests told by ``record_property``."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    failed: dict[str, list[str]] = defaultdict(list)
    told: dict[str, dict[str, str]] = defaultdict(dict)
    for case in ElementTree.parse(results).iter("testcase"):
        file = case.get("classname", "")
        outcome = next((tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None), "passed")
        counts[file][outcome] += 1
        told[file] |= {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
        if outcome in ("failure", "error"):
            failed[file].append(case.get("name", ""))
    for file, outcomes in counts.items():
        yield Row(file, passed=not failed[file], detail={**outcomes, **told[file], "failed": failed[file]})
