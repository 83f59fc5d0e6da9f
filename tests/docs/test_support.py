"""The table of what is supported is made of runs of today's cases, with the releases that are supported today."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.exporter.families import EXPORTED
from tests.support import cases, digest, records
from tests.support.__main__ import main
from tests.support.table import PAGE, releases, written

AGAIN = "python -m tests.support run, with this release of transformers, then python -m tests.support table"


@pytest.mark.parametrize("release", releases())
def test_every_family_of_today_was_run_with_a_release(release: str) -> None:
    run = records.of_transformers(release)
    assert run.versions["transformers"].startswith(f"{release}."), AGAIN
    stale = [family for family in EXPORTED if family not in run.tried or run.tried[family] != digest(family)]
    assert stale == [], AGAIN
    assert run.tried.keys() == EXPORTED.keys(), AGAIN


def test_what_ci_runs_has_passed() -> None:
    newest = records.of_transformers(releases()[1])
    told = [case for case in cases(every=False) if case.backend != "fused"]
    assert [str(case) for case in told if case.dtype not in newest.dtypes(case.family, case.backend)] == [], AGAIN


def test_the_page_has_the_table_of_the_records() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "python -m tests.support table"


@pytest.mark.parametrize("command", ["run", "table", "bundles", "tensorrt"])
def test_help_is_no_argument(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(main, [command, "--help"])
    assert (told.exit_code, told.output.splitlines()[0].split()[:3]) == (0, ["Usage:", "main", command])
    assert list(tmp_path.iterdir()) == []


def test_families_are_known(tmp_path: Path) -> None:
    told = CliRunner().invoke(main, ["bundles", str(tmp_path / "out"), "nosuch"])
    assert told.exit_code == 2
    assert "'nosuch' is not one of 'mamba'" in told.output
    assert list(tmp_path.iterdir()) == []
