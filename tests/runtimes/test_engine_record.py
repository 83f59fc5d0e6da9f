"""Engines' records: what is written whole, what is found, and which plans are refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import MODEL, Bundle, open_bundle
from seqexport.runtimes.trt import versions
from seqexport.runtimes.trt.profiles import bundle_profiles
from seqexport.runtimes.trt.record import (
    EngineRecord,
    Platform,
    PluginsUsed,
    engines_of,
    find_engine,
    release,
    require_writable_engine,
    weights_hash,
    write_engine,
)
from tests.conftest import Exported

HERE = Platform("NVIDIA H100 80GB HBM3", "9.0", "8.6.0")
PLAN = b"a plan"


@pytest.fixture
def bundle(exported: Exported, tmp_path: Path) -> Bundle:
    source = exported("llama", target="portable", logits="last").path
    return open_bundle(shutil.copytree(source, tmp_path / "my-llama"))


def record(bundle: Bundle, **changes: Any) -> EngineRecord:
    made = EngineRecord(
        format_version=1,
        plan=f"{HERE.engine_name}.plan",
        sha256=hashlib.sha256(PLAN).hexdigest(),
        gpu=HERE.gpu,
        compute_capability=HERE.compute_capability,
        tensorrt=HERE.tensorrt,
        seqexport="0.1.0",
        plugins=PluginsUsed("0" * 64, "0.1.0"),
        model_sha256=bundle.manifest.files[MODEL],
        profiles=bundle_profiles(bundle.manifest),
        flags={"--maxShapes": "input_ids:1x8"},
        date="2026-01-01 00:00 UTC",
        weights_sha256=weights_hash(bundle),
    )
    return msgspec.structs.replace(made, **changes)


def written(bundle: Bundle, **changes: Any) -> Path:
    return write_engine(bundle.path / "engines", memoryview(PLAN), record(bundle, **changes))


def refusal(bundle: Bundle, here: Platform = HERE) -> str:
    with pytest.raises(UserError) as refused:
        find_engine(bundle, here)
    message = str(refused.value)
    assert message.endswith(f"seqexport build {bundle.path}")
    return message


def test_what_is_written_is_found_under_the_names_of_gpu_and_version(bundle: Bundle) -> None:
    plan = written(bundle)
    assert plan == bundle.path / "engines" / "nvidia-h100-80gb-hbm3-trt8.6.0.plan"
    assert find_engine(bundle, HERE) == (PLAN, record(bundle))
    assert sorted(file.name for file in plan.parent.iterdir()) == [plan.with_suffix(".json").name, plan.name]
    assert open_bundle(bundle.path).manifest == bundle.manifest


def test_a_bundle_lists_its_engines(bundle: Bundle) -> None:
    assert engines_of(bundle) == []
    written(bundle)
    written(bundle, plan="other.plan", gpu="NVIDIA L4")
    assert [each.gpu for each in engines_of(bundle)] == [HERE.gpu, "NVIDIA L4"]


def test_no_engine_says_which_there_are(bundle: Bundle) -> None:
    assert refusal(bundle).startswith(f"{bundle.path} has no engine for {HERE}; build one")
    written(bundle)
    other = Platform("NVIDIA L4", "8.9", "10.3.0")
    assert f"has no engine for {other}; {bundle.path / 'engines'} has engines for: {HERE}" in refusal(bundle, other)


def test_a_plan_for_another_gpu_under_this_ones_name_is_refused(bundle: Bundle) -> None:
    written(bundle, gpu="NVIDIA L4", compute_capability="8.9")
    assert f"built for NVIDIA L4, TensorRT 8.6.0, and this is {HERE}" in refusal(bundle)
    written(bundle, tensorrt="8.5.2")
    assert f"built for {HERE.gpu}, TensorRT 8.5.2, and this is {HERE}" in refusal(bundle)


def test_a_version_compatible_plan_runs_in_later_versions_of_its_major(bundle: Bundle) -> None:
    written(bundle, tensorrt="10.3.0", plan="a.plan", flags={"--versionCompatible": ""})
    for version, runs in (("10.3.0", True), ("10.13.3", True), ("10.0.1", False), ("11.1.0", False)):
        here = Platform(HERE.gpu, HERE.compute_capability, version)
        if runs:
            assert find_engine(bundle, here)[0] == PLAN
        else:
            assert "has engines for" in refusal(bundle, here)
    assert "has no engine for" in refusal(bundle, Platform("NVIDIA L4", "8.9", "10.13.3"))


def test_a_plan_that_does_not_match_its_record_is_refused(bundle: Bundle) -> None:
    plan = written(bundle)
    plan.write_bytes(PLAN[:-1])
    assert f"{plan}: sha256 " in refusal(bundle)
    plan.unlink()
    assert f"{plan}: cannot be read" in refusal(bundle)


@pytest.mark.parametrize("changed", ["model_sha256", "weights_sha256"])
def test_a_plan_of_another_model_is_refused(changed: str, bundle: Bundle) -> None:
    written(bundle, **{changed: "0" * 64})
    assert f"built from another model than {bundle.model}" in refusal(bundle)


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 1}', "\xff"])
def test_a_damaged_record_is_refused(text: str, bundle: Bundle) -> None:
    file = written(bundle).with_suffix(".json")
    file.write_bytes(text.encode("latin-1"))
    assert f"{file} is no engine's record" in refusal(bundle)


@pytest.mark.parametrize("changes", [{"format_version": 9}, {"plan": "../other.plan"}])
def test_a_record_of_another_format_or_place_is_refused(changes: dict[str, Any], bundle: Bundle) -> None:
    file = written(bundle).with_suffix(".json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    assert f"{file}: " in refusal(bundle)


@pytest.mark.parametrize("kind", [".json", ".plan"])
@pytest.mark.parametrize("put", ["a pipe", "/dev/zero", "../../secret"])
def test_a_record_or_plan_that_is_no_file_of_the_bundle_is_not_waited_for(put: str, kind: str, bundle: Bundle) -> None:
    file = written(bundle).with_suffix(kind)
    file.rename(bundle.path.parent / "secret")
    if put == "a pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(put)
    told = "a pipe; expected a regular file" if put == "a pipe" else "a link that leads out of its folder"
    said = refusal(bundle)
    assert f"{file}" in said and told in said


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_failed_write_leaves_the_old_files_and_nothing_else(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(bundle).parent
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match=r"cannot write .*\.plan: No space left on device"):
            written(bundle, gpu="another")
    assert contents(folder) == before


@pytest.mark.parametrize("links", [True, False])
def test_a_record_that_cannot_be_replaced_leaves_the_old_plan(
    links: bool, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = written(bundle)
    plan.write_bytes(b"old plan")
    plan.with_suffix(".json").unlink()
    plan.with_suffix(".json").mkdir()
    if not links:
        monkeypatch.setattr("os.link", lambda *names: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    with pytest.raises(UserError, match="cannot write"):
        written(bundle)
    assert contents(plan.parent) == {plan.name: b"old plan"}
    plan.unlink()
    with pytest.raises(UserError, match="cannot write"):
        written(bundle)
    assert contents(plan.parent) == {}


def test_what_cannot_be_written_is_found_out_without_a_trace(bundle: Bundle) -> None:
    before = sorted(bundle.path.rglob("*"))
    require_writable_engine(bundle.path / "some" / "engines" / "x.plan")
    assert sorted(bundle.path.rglob("*")) == before
    (bundle.path / "taken").write_text("")
    for plan in (Path("/proc/x.plan"), bundle.path / "taken" / "x.plan", bundle.path):
        with pytest.raises(UserError, match=r"cannot write .*; the engine was not built"):
            require_writable_engine(plan)


@pytest.mark.parametrize("text", ["8.6.1", "8.6.1.post1", "8.6.1.6"])
def test_a_version_of_tensorrt_is_three_numbers(text: str) -> None:
    assert versions.version(SimpleNamespace(__version__=text)) == "8.6.1"


def test_a_record_of_no_version_is_refused(bundle: Bundle) -> None:
    file = written(bundle).with_suffix(".json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "tensorrt": "new"}))
    assert f"{file} is no engine's record: Invalid version: 'new'" in refusal(bundle)


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("8.6.0", (8, 6, 0)), ("8.6.0.post1", (8, 6, 0)), ("10.0.0b6", (10, 0, 0)), ("RTX 1.7.1", (1, 7, 1))],
)
def test_the_numbers_of_a_version(version: str, numbers: tuple[int, ...]) -> None:
    assert release(version) == numbers
