"""Where an export goes: what cannot be written is found before the work, and nobody else's is replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqexport.exporter import pipeline
from seqexport.plugins.publish import claimed
from seqexport.runtimes.bundle import open_bundle
from tests.cli.conftest import Result, Run, contents
from tests.cli.test_onnx_interrupted import small_disk

Export = Callable[..., Result]


@pytest.fixture
def export(run: Run, llama: Path, work: Path, traced_once: None) -> Export:
    return lambda output, *more: run("onnx", "--model", llama, "-o", output, "--no-verify", *more)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that begins to load its model fails."""

    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("the long work began")

    monkeypatch.setattr(pipeline, "load", load)


def test_an_output_that_another_export_writes_is_refused_at_once(export: Export, work: Path, no_work: None) -> None:
    with claimed(work / "new/out"):
        refusal = export("new/out").refusal
        assert refusal == ("new/out: another export is writing it; wait until that has ended, or choose another -o")
        assert export("new/out", "--force").refusal == refusal
    assert contents(work) == {}


def test_an_output_that_appears_meanwhile_is_left_as_it_is(
    export: Export, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.load

    def load(*args: Any, **options: Any) -> Any:
        (work / "out").mkdir()
        (work / "out/precious").write_text("mine")
        return real(*args, **options)

    monkeypatch.setattr(pipeline, "load", load)
    assert export("out").refusal == "cannot write out: Directory not empty; nothing was left behind"
    assert contents(work) == {"out": b"", "out/precious": b"mine"}


@pytest.mark.parametrize("output", ["x" * 300, "ä" * 128, "taken/out"])
def test_what_cannot_be_written_is_found_first(export: Export, work: Path, no_work: None, output: str) -> None:
    (work / "taken").write_text("")
    assert export(output).refusal.startswith(f"cannot write {output}: ")
    assert contents(work) == {"taken": b""}


def test_a_name_as_long_as_a_file_system_takes(export: Export, work: Path) -> None:
    assert export("x" * 255).code == 0
    assert [each.name for each in work.iterdir()] == ["x" * 255]


def test_the_current_folder(export: Export, work: Path) -> None:
    for more in ([], ["--force"]):
        assert export(".", *more).code == 0
        bundle = open_bundle(work)
        assert sorted(each.name for each in work.iterdir()) == sorted([*bundle.manifest.files, "seqexport.json"])
    assert ". is already a bundle" in export(".").refusal
    (work / "mine.txt").write_text("mine")
    (work / "engines").mkdir()
    assert export(".", "--force").code == 0
    assert (work / "mine.txt").read_text() == "mine" and not (work / "engines").exists()


def test_a_mount_point(export: Export, work: Path) -> None:
    with small_disk(work / "volume", 4 << 20):
        assert export("volume").code == 0
        assert export("volume", "--force").code == 0
        files = open_bundle(work / "volume").manifest.files
        assert sorted(each.name for each in (work / "volume").iterdir()) == sorted([*files, "seqexport.json"])


def test_what_a_killed_export_left_is_swept_and_an_unfinished_replacement_finished(export: Export, work: Path) -> None:
    """In a folder that stays, all of the new bundle is on the disk before the first file is moved."""
    assert export("other").code == 0
    new = shutil.copytree("other", ".seqexport.new")
    moved = sorted(each.name for each in Path(new).iterdir())
    Path(".seqexport.todo").write_text(f'{{"remove": ["seqexport.json"], "move": {moved}}}'.replace("'", '"'))
    shutil.rmtree("other")
    assert ". is already a bundle" in export(".").refusal
    open_bundle(work)
    assert sorted(each.name for each in work.iterdir()) == moved
