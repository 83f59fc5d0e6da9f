"""seqexport-build that is killed, and bundles that are replaced while it opens them: what belongs together stays so."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
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


def killed_at_every_change(build: Build, words: Sequence[object], folder: Path, env: dict[str, str]) -> Iterator[int]:
    """Gives the number of each change of a name at which the build was killed."""
    for number in range(1, 100):
        result = build(*words, env={**env, "KILLED_IN": str(folder), "KILLED_AT": str(number)})
        if result.code == 0:
            return
        assert result.code == -signal.SIGKILL, result.err
        yield number
    raise AssertionError("it never comes to its end")


@pytest.mark.parametrize("named", [True, False], ids=["as it was told", "beside the model"])
def test_a_build_that_is_killed_leaves_a_pair(
    named: bool, build: Build, interposed: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    model = plain_model((tmp_path if named else folder) / "plain.onnx", 5)
    words: list[Any] = [model, *(("-o", folder / "x.plan") if named else ())]
    assert build(*words).code == 0

    killed = 0
    for killed in killed_at_every_change(build, words, folder, interposed):
        pair_in(folder)
        assert build(*words).code == 0
        assert {file.name for file in folder.iterdir()} - {model.name} == pair_in(folder), f"killed at change {killed}"
        assert not named or pair_in(folder) == {"x.plan", "x.json"}
    assert killed >= 5


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
