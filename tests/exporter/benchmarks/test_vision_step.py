"""The GPU run's step with vision models, as far as it goes without a GPU."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir
import pytest
import torch

import seqexport
from seqexport.exporter.benchmarks import bundles, peers, vision_eager
from seqexport.exporter.benchmarks.setting import LeftOut, Setting, StepFailed
from seqexport.exporter.benchmarks.steps import engines, vision
from tests.exporter.tensorrt_8_6 import unread

with seqexport.mamba_ssm():
    from seqexport.exporter.benchmarks import vision_models


def tiny_vim() -> torch.nn.Module:
    return vision_models.Vim(16, 1)


def tiny_vmamba() -> torch.nn.Module:
    return vision_models.VMamba(16, (1, 1))


def fake(monkeypatch: pytest.MonkeyPatch, *, scans: int, fails: str = "") -> list[tuple[str, ...]]:
    """Programs that end at once: a call takes an engine 2 s and PyTorch 7 s. Gives what the engines were built with."""
    built: list[tuple[str, ...]] = []

    def tensorrt(self: Setting, module: str, what: str, *arguments: object, log: str, **options: Any) -> str:
        words = tuple(map(str, arguments))
        if fails and fails in log:
            raise StepFailed(f"{log}: exit code 1")
        if what == "build":
            built.append(words)
        elif what == "bench":
            Path(words[-1]).parent.mkdir(parents=True, exist_ok=True)
            Path(words[-1]).write_text(
                json.dumps({"points": [{"seconds": 2.0, "sizes": words[words.index("--axis") + 1]}]})
            )
        return json.dumps([{"error": 1e-4, "allowed": 1e-3, "passed": True}])

    def torch_program(self: Setting, module: str, *arguments: object, log: str, **options: Any) -> str:
        if arguments[0] == "onnx":
            Path(str(arguments[-1])).mkdir(parents=True)
        return json.dumps({"seconds": 7.0, "scans": scans, "finite": True})

    monkeypatch.setattr(Setting, "tensorrt", tensorrt)
    monkeypatch.setattr(Setting, "torch", torch_program)
    monkeypatch.setattr(Setting, "require_tensorrt", lambda self: None)
    monkeypatch.setattr(peers, "build_peers", lambda setting: [])
    return built


def test_an_engine_of_each_size_is_held_against_the_kernel(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    built = fake(monkeypatch, scans=48)
    rows = list(vision.run(dataclasses.replace(setting, models=("vim-small",))))
    faster = [row for row in rows if row.target]
    assert [(row.measured, row.target, row.met) for row in faster] == [(3.5, 3.0, True), (3.5, 1.5, True)]
    assert all("with mamba_ssm's kernel" in row.name for row in faster)
    assert sum(row.passed is True for row in rows) == 4  # two engines, each verified
    assert [words[words.index("--optShapes") + 1] for words in built] == ["image:1x3x224x224", "image:32x3x224x224"]
    folders = [str(setting.work / "bundles" / f"vim-small-fp16-batch-{batch}") for batch in (1, 32)]
    assert [words[0] for words in built] == folders


def test_without_the_kernel_the_row_says_so(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, scans=0)

    def no_sources(setting: Setting) -> list[str]:
        raise LeftOut("no source distributions")

    monkeypatch.setattr(peers, "build_peers", no_sources)
    rows = list(vision.run(dataclasses.replace(setting, models=("vim-small",))))
    assert rows[0].reason == "no source distributions"
    assert [row.target for row in rows if "without mamba_ssm's kernel" in row.name] == [None, None]


def test_a_size_that_fails_keeps_no_other_from_being_timed(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, scans=1, fails="build-vim-small-fp16-batch-1")
    rows = list(vision.run(setting))
    assert [row.name for row in rows if row.passed is False] == ["vim-small-fp16, batch 1: speed"]
    assert sum(row.met is True for row in rows) == 3
    with pytest.raises(LeftOut, match="vision"):
        list(vision.run(dataclasses.replace(setting, models=("mamba-130m",))))


@pytest.mark.parametrize("make", [tiny_vim, tiny_vmamba])
def test_eager_is_timed(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_eager, "SIDE", 32)
    monkeypatch.setattr(vision_models, "tiny", make, raising=False)
    found = vision_eager.measure("tiny", 2, device="cpu")
    assert found["seconds"] > 0 and found["finite"] and found["scans"] == 0


@pytest.mark.parametrize("make", [tiny_vim, tiny_vmamba])
def test_tensorrt_8_6_reads_every_standard_op(make: Any, tmp_path: Path) -> None:
    asked = {"inputs": {"image": torch.zeros(1, 3, 32, 32)}, "dynamic": {"image": ("batch", 3, 32, 32)}}
    bundle = seqexport.export(make(), tmp_path / "bundle", **asked, dtype="fp16", target="tensorrt")
    graph = ir.load(bundle.model)
    assert [told for node in graph.graph if node.domain == "" and (told := unread(node))] == []
    kinds = Counter(node.op_type for node in graph.graph)
    assert kinds["SelectiveScan"] == 2 and kinds["MatMul"] == 0
    assert kinds["Split"] == (0 if make is tiny_vim else 2)  # of what a scan gives
    assert kinds["ConstantOfShape"] == 2  # of each shape of empty states one
    if make is tiny_vim:
        assert kinds["Transpose"] == 1  # of the patches


def test_the_bundle_is_of_the_factory(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Setting, "torch", lambda self, *arguments, **options: asked.extend(map(str, arguments)) or "")
    for wanted in bundles.for_vision(setting):
        bundles.ensure_bundle(setting, wanted)
        home, _, name = asked[asked.index("--module") + 1].partition(":")
        assert home == vision_models.__name__ and callable(getattr(vision_models, name))
        assert asked[asked.index("--dtype") + 1] == "fp16"
        asked.clear()


def test_eager_rows_hold_all_that_they_are_made_of() -> None:
    row = vision.speed_row("x", 1, {"seconds": 2.0}, {"seconds": 5.0, "scans": 3})
    assert (row.measured, row.met) == (2.5, False)
    assert msgspec.to_builtins(row)["detail"] == {"eager": {"seconds": 5.0, "scans": 3}, "engine": {"seconds": 2.0}}
    assert engines.summary([{"error": 1.0, "allowed": 2.0, "passed": True}])["share_of_allowed"] == 0.5
