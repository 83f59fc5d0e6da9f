"""seqexport-build that is killed, and bundles that are replaced while it opens them: what belongs together stays so."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from seqexport.plugins import toolchain
from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import MANIFEST
from seqexport.runtimes.trt.record import read_record
from tests.conftest import Exported
from tests.cpp.conftest import Build
from tests.cpp.embedded import WORK, run
from tests.cpp.test_engines import plain_model
from tests.cpp.test_refusals import edit_scan, place_weights

OBEYED = "\x1b]0;mine\x07\x9b31m\u202e"


@pytest.fixture(scope="session")
def interposed(executable: Path) -> dict[str, str]:
    """The environment of a program to which ``interposed.cpp`` happens."""
    made = WORK / "libinterposed.so"
    source, compiler = Path(__file__).parent / "interposed.cpp", toolchain.find_toolchain().cxx.path
    done = run(compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", made, source, "-ldl")
    assert done.returncode == 0, done.stderr
    return {"LD_PRELOAD": str(made)}


def pair_in(folder: Path) -> set[str]:
    """The names of a folder's record, and of the plan that it names and is of."""
    [file] = folder.glob("*.json")
    record = read_record(folder, file, "")
    assert record.sha256 == sha256(folder / record.plan)
    return {file.name, record.plan}


@pytest.mark.parametrize("named", [True, False], ids=["as it was told", "beside the model"])
def test_a_build_that_is_killed_leaves_a_pair(
    named: bool, build: Build, interposed: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    model = (tmp_path if named else folder) / "plain.onnx"
    words: list[Any] = [model, *(("-o", folder / "x.plan") if named else ())]

    for change in itertools.count(1):
        plain_model(model, 5)
        assert build(*words).code == 0
        assert {file.name for file in folder.iterdir()} - {model.name} == pair_in(folder), f"killed at {change - 1}"
        assert not named or pair_in(folder) == {"x.plan", "x.json"}
        plain_model(model, 6)  # of which the plan is another
        killed = build(*words, env={**interposed, "KILLED_IN": str(folder), "KILLED_AT": str(change)})
        pair_in(folder)
        if killed.code == 0:
            break
        assert killed.code == -signal.SIGKILL, killed.err
    assert change > 5


def test_a_bundle_that_is_replaced_while_it_opens_is_read_again(
    build: Build, interposed: dict[str, str], exported: Exported, tmp_path: Path
) -> None:
    first = shutil.copytree(exported("preset:mamba", target="portable").path, tmp_path / "first")
    second = shutil.copytree(exported("preset:mamba", target="ort").path, tmp_path / "second")
    refusal = build(first, env={**interposed, "EXCHANGED": str(first), "EXCHANGED_BY": str(second)}).refusal
    assert json.loads((first / MANIFEST).read_text())["target"] == "ort"
    assert "exported for target ort" in refusal


def test_what_a_terminal_would_obey_is_not_shown(build: Build, exported: Exported, tmp_path: Path) -> None:
    bundle = shutil.copytree(exported("preset:mamba", target="tensorrt").path, tmp_path / "bundle")
    edit_scan(bundle, partial(place_weights, OBEYED))
    assert "has weights in '\ufffd]0;mine\ufffd\ufffd31m\ufffd', which seqexport.json" in build(bundle).refusal


def test_a_manifest_that_leads_out_or_is_huge(build: Build, exported: Exported, tmp_path: Path) -> None:
    bundle = shutil.copytree(exported("preset:mamba", target="portable").path, tmp_path / "bundle")
    (bundle / MANIFEST).rename(tmp_path / MANIFEST)
    (bundle / MANIFEST).symlink_to(tmp_path / MANIFEST)
    assert f"{MANIFEST}: a link that leads out of its folder" in build(bundle).refusal
    (bundle / MANIFEST).unlink()
    with (bundle / MANIFEST).open("wb") as stream:
        stream.truncate(1 << 40)
    assert "1099511627776 bytes; expected at most 4194304" in build(bundle).refusal
