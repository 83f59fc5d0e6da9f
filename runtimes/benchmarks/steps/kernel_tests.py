"""The tests of the kernels and of the ops on this GPU: every op in every dtype against float64, over hard shapes."""

from __future__ import annotations

import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from seqexport.plugins import library
from seqexport.runtimes.benchmarks.results import Row
from seqexport.runtimes.benchmarks.setting import SOURCE, LeftOut, Setting, StepFailed

FOLDERS = ("tests/kernels", "tests/ops")
TESTS_FAILED, PROCESSES = 1, 8


def run(setting: Setting) -> Iterator[Row]:
    for needed in ("pytest", "torch"):
        if importlib.util.find_spec(needed) is None:
            raise LeftOut(f"no {needed} in {sys.executable}")
    if not all((SOURCE / folder).is_dir() for folder in FOLDERS):
        raise LeftOut(f"no tests in {SOURCE}: they are in the source checkout, not in the wheel")
    library.require("kernels")
    results = setting.work / "kernel-tests.xml"
    results.unlink(missing_ok=True)
    many = ["-n", str(PROCESSES)] if importlib.util.find_spec("xdist") else []
    plain = ["-p", "no:cacheprovider", "-p", "no:benchmark"]
    command = [sys.executable, "-m", "pytest", *FOLDERS, *many, *plain, f"--junitxml={results}"]
    setting.run(command, log="kernel-tests", cwd=SOURCE, allowed=(0, TESTS_FAILED))
    if not results.exists():
        raise StepFailed("pytest wrote no results")
    yield from rows(results)


def rows(results: Path) -> Iterator[Row]:
    """One for each test file, from pytest's JUnit XML."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    failed: dict[str, list[str]] = defaultdict(list)
    for case in ElementTree.parse(results).iter("testcase"):
        file = case.get("classname", "")
        outcome = next((tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None), "passed")
        counts[file][outcome] += 1
        if outcome in ("failure", "error"):
            failed[file].append(case.get("name", ""))
    for file, outcomes in counts.items():
        yield Row(file, passed=not failed[file], detail={**outcomes, "failed": failed[file]})
