"""Which cases passed, with which versions, and when: a JSON beside this file for each run."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.exporter.families import EXPORTED
from tests.support import BACKENDS, PROPERTY, digest

FOLDER = Path(__file__).parent
PACKAGES = ("transformers", "torch", "onnxruntime")


class Passed(msgspec.Struct, frozen=True):
    """What passed of a family: the dtypes of each backend, and the digest of the model that it was."""

    digest: str
    dtypes: dict[str, list[str]]


class Record(msgspec.Struct, frozen=True):
    """One run.

    Attributes:
        versions: of the packages that it was a run of.
        families: by name; those of which nothing passed are not there.
    """

    date: str
    versions: dict[str, str]
    families: dict[str, Passed]

    def dtypes(self, family: str, backend: str) -> list[str]:
        """What passed of the model that is tested today."""
        passed = self.families.get(family)
        return passed.dtypes.get(backend, []) if passed is not None and passed.digest == digest(family) else []


def record(passed: Iterable[tuple[str, str, str]], versions: Mapping[str, str]) -> Record:
    """A record of cases (family, dtype, backend), made today."""
    found: dict[str, dict[str, list[str]]] = {}
    for family, dtype, backend in passed:
        found.setdefault(family, {}).setdefault(backend, []).append(dtype)
    families = {
        name: Passed(digest(name), {backend: found[name][backend] for backend in BACKENDS if backend in found[name]})
        for name in EXPORTED
        if name in found
    }
    return Record(datetime.date.today().isoformat(), dict(versions), families)


def write(file: Path, made: Record) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")


def of_transformers(version: str) -> Record:
    """The run of a release, such as ``5.23``."""
    return _read(FOLDER / f"transformers-{version}.json")


def of_tensorrt() -> Record | None:
    file = FOLDER / "tensorrt.json"
    return _read(file) if file.exists() else None


def _read(file: Path) -> Record:
    return msgspec.json.decode(file.read_bytes(), type=Record)


class Recorder:
    """A pytest plugin: writes what passed once all is done, in the process that has every report."""

    def __init__(self, file: Path) -> None:
        self.file, self.outcomes = file, dict[tuple[str, str, str], bool]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties: dict[str, Any] = dict(report.user_properties)
        if PROPERTY in properties and not report.skipped:
            case = tuple(properties[PROPERTY])
            self.outcomes[case] = self.outcomes.get(case, True) and report.passed

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not hasattr(session.config, "workerinput"):
            passed = [case for case, fine in self.outcomes.items() if fine and case[2] in BACKENDS]
            write(self.file, record(passed, {name: importlib.metadata.version(name) for name in PACKAGES}))
