"""Which cases passed, with which versions, and when: a JSON beside this file for each run."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.exporter.families import EXPORTED
from tests.support import BACKENDS, PROPERTY, digest

FOLDER = Path(__file__).parent
TENSORRT = "tensorrt.json"
PACKAGES = ("transformers", "torch", "onnxruntime")


class Record(msgspec.Struct, frozen=True):
    """One run.

    Attributes:
        versions: of the packages that it was a run of.
        tried: the families that were run, and the digest of the model of each.
        passed: the dtypes by family and backend.
    """

    date: str
    versions: dict[str, str]
    tried: dict[str, str]
    passed: dict[str, dict[str, list[str]]]

    def dtypes(self, family: str, backend: str) -> list[str]:
        """What passed of the model that is tested today."""
        same = self.tried.get(family) == digest(family)
        return self.passed.get(family, {}).get(backend, []) if same else []


def record(outcomes: Mapping[tuple[str, str, str], bool], versions: Mapping[str, str]) -> Record:
    """A record of what cases (family, dtype, backend) came to, made today."""
    passed: dict[str, dict[str, list[str]]] = {}
    for (family, dtype, backend), fine in outcomes.items():
        if fine and backend in BACKENDS:
            passed.setdefault(family, {}).setdefault(backend, []).append(dtype)
    families = {family for family, _, _ in outcomes}
    tried = {family: digest(family) for family in EXPORTED if family in families}
    return Record(datetime.date.today().isoformat(), dict(versions), tried, passed)


def continued(before: Record, made: Record, outcomes: Mapping[tuple[str, str, str], bool]) -> Record:
    """A record that keeps what an earlier run with the same versions says of the same models and other cases."""
    if before.versions != made.versions:
        return made
    kept = {
        (family, dtype, backend): True
        for family, backends in before.passed.items()
        for backend in backends
        for dtype in before.dtypes(family, backend)
    }
    whole = record({**kept, **outcomes}, made.versions)
    same = {family: told for family, told in before.tried.items() if family in EXPORTED and told == digest(family)}
    return msgspec.structs.replace(whole, tried={**same, **whole.tried})


def write(file: Path, made: Record) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")


def of_transformers(version: str) -> Record:
    """The run of a release, such as ``5.23``."""
    return _read(FOLDER / f"transformers-{version}.json")


def of_tensorrt() -> Record | None:
    file = FOLDER / TENSORRT
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
            made = record(self.outcomes, {name: importlib.metadata.version(name) for name in PACKAGES})
            write(self.file, continued(_read(self.file), made, self.outcomes) if self.file.exists() else made)
