"""The GPU run's step with a server, as far as it goes without a GPU: its programs run on the CPU, or end at once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from seqexport.exporter.benchmarks.setting import LeftOut, Setting, StepFailed
from seqexport.exporter.benchmarks.steps import serving
from seqexport.exporter.commands import bench
from seqexport.runtimes.benchmarks import serve_speed
from tests.conftest import Exported

NAMES = ["mamba-1.4b-fp16", "mamba-1.4b-fp16-portable"]


def test_rows_are_made_of_what_the_programs_write(exported: Exported, tmp_path: Path) -> None:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    file = tmp_path / "bench.json"
    sizes = ["--batches", "1,3", "--lengths", "8", "--steps", "4", "--repeats", "1"]
    done = CliRunner().invoke(bench.command, [str(bundle.path), *sizes, "--threads", "1", "-o", str(file)])
    assert done.exit_code == 0, done.output
    served = serve_speed.measure(bundle, "ort", {"threads": 1}, [1, 3], 200, rounds=1)
    rows = list(serving.rows("it", json.loads(file.read_text()), served))
    assert [row.name for row in rows] == [
        "it: 1 streams", "it: 1 streams: share of the engine's own tokens/s",
        "it: 3 streams", "it: 3 streams: share of the engine's own tokens/s",
    ]  # fmt: skip
    for speed, share in zip(rows[::2], rows[1::2], strict=True):
        n, step = speed.detail["over_http"]["streams"], speed.detail["step_seconds"]
        assert speed.measured == speed.detail["over_http"]["tokens_per_second"] > 0
        assert share.measured == pytest.approx(speed.measured / (n / step))


def fake(monkeypatch: pytest.MonkeyPatch, *, fails: str = "") -> list[tuple[str, ...]]:
    """Programs that end at once: a step takes 10 ms, and a server reaches 80% of that. Gives the commands."""
    commands: list[tuple[str, ...]] = []

    def program(self: Setting, module: str, *arguments: object, log: str, **options: Any) -> str:
        words = tuple(map(str, arguments))
        commands.append((module, *words))
        if fails and fails in log:
            raise StepFailed(f"{log}: exit code 1")
        if words[0] in ("onnx", "build"):
            folder = Path(words[words.index("-o") + 1]) if words[0] == "onnx" else Path(words[1]) / "engines"
            folder.mkdir(parents=True)
            (folder / ("model.onnx" if words[0] == "onnx" else "here.plan")).write_text("")
        elif words[0] == "bench":
            points = [{"batch": n, "decode_seconds": 0.01} for n in serving.STREAMS]
            Path(words[-1]).write_text(json.dumps({"points": points}))
        elif module.endswith("serve_speed"):
            rates = [{"streams": n, "tokens_per_second": 80.0 * n} for n in serving.STREAMS]
            Path(words[-1]).write_text(json.dumps({"runner": "fake", "engine": rates, "server": rates}))
        return ""

    monkeypatch.setattr(Setting, "tensorrt", program)
    monkeypatch.setattr(Setting, "torch", program)
    monkeypatch.setattr(Setting, "require_tensorrt", lambda self: None)
    monkeypatch.setattr(serving, "require_provider", lambda: None)
    return commands


def test_both_runtimes_serve_all_streams(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = fake(monkeypatch)
    rows = list(serving.run(dataclasses.replace(setting, models=("mamba-1.4b",))))
    held = [row for row in rows if row.target]
    assert [row.name for row in held] == [f"{name}: 256 streams: share of the engine's own tokens/s" for name in NAMES]
    assert all(row.measured == pytest.approx(0.8) and row.met for row in held)
    (built,) = [words for words in commands if words[1] == "build"]
    assert built[2] == str(setting.work / "bundles" / "mamba-1.4b-fp16-served")
    assert built[built.index("--maxShapes") + 1] == "input_ids:256x64"
    assert not (setting.work / "bundles" / "mamba-1.4b-fp16" / "engines").exists()


def test_what_fails_in_one_runtime_leaves_the_other(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, fails="build-")
    first, *rest = serving.run(dataclasses.replace(setting, models=("mamba-1.4b",)))
    assert (first.passed, first.reason.startswith("build-")) == (False, True)
    assert len(rest) == 2 * len(serving.STREAMS)
    with pytest.raises(LeftOut, match=r"none of --models is of mamba-1\.4b"):
        next(serving.run(dataclasses.replace(setting, models=("mamba",))))
