"""Whole models in the GPU run, as far as ONNX Runtime and the CPU can stand in: long runs and timings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from seqexport.exporter.benchmarks.bundles import Wanted, for_engines, for_speed
from seqexport.exporter.benchmarks.setting import Setting
from seqexport.exporter.benchmarks.steps import engines, models
from seqexport.plugins.errors import UserError
from seqexport.runtimes.backends import open_runner
from seqexport.runtimes.benchmarks import checkpoints, engine_speed, long_run, ort_speed, torch_speed
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.quiet import quiet
from tests.runtimes.tiny import make


def test_which_bundles_are_wanted(setting: Setting, tmp_path: Path) -> None:
    assert len(for_engines(setting)) == 8 and {wanted.dtype for wanted in for_speed(setting)} == {"fp16"}
    some = dataclasses.replace(setting, models=("mamba-130m",))
    assert for_engines(some) == [Wanted("mamba-130m", "fp32"), Wanted("mamba-130m", "fp16")]
    assert for_speed(some) == [Wanted("mamba-130m", "fp16")]
    given = for_engines(dataclasses.replace(setting, bundles=(tmp_path / "mine",)))
    assert [(wanted.name, wanted.folder(setting), wanted.random) for wanted in given] == [
        ("mine", tmp_path / "mine", False)
    ]


def test_the_shapes_are_those_of_real_models() -> None:
    configs = {name: make_config() for name, make_config in checkpoints.SHAPES.items()}
    assert (configs["mamba-1.4b"].hidden_size, configs["mamba-1.4b"].num_hidden_layers) == (2048, 48)
    assert configs["llama-1.4b"].head_dim == configs["llama-130m"].head_dim == 64


def test_a_long_run_is_answered_here_and_replayed_elsewhere(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_run, "PROMPT", 12)
    file = tmp_path / "answers.safetensors"
    with quiet():
        long_run.answer(bundle, file, steps=20, device="cpu", source=None)
    found = long_run.replay(bundle, file, "ort")
    assert found["steps"] == 20
    assert all(check.passed for check in found["checks"])
    summed = engines.summary(msgspec.to_builtins(found["checks"]))
    assert summed["checks"] == len(found["checks"]) and 0 < summed["share_of_allowed"] <= 1 and not summed["failed"]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="make it again"):
        long_run.read(file)


def test_a_long_run_needs_room(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    if bundle.manifest.capacity is None:
        assert long_run.random_rows(bundle, 5).ids.shape == (1, long_run.PROMPT + 6)
        return
    assert long_run.random_rows(bundle, 500).ids.shape == (1, 201)
    monkeypatch.setattr(long_run, "PROMPT", 200)
    with pytest.raises(UserError, match="--max-len"):
        long_run.random_rows(bundle, 5)


def test_an_infinite_error_is_the_worst() -> None:
    good = {"error": 1e-4, "allowed": 1e-3, "passed": True}
    bad = {"error": None, "allowed": 1e-3, "passed": False}
    assert engines.summary([good, bad])["worst"] is bad
    assert engines.summary([good, bad])["failed"] == [bad]


def test_an_engine_is_timed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROMPT": 48, "CONTEXT": 16, "STEPS": 8, "PROMPT_REPEATS": 2}.items():
        monkeypatch.setattr(engine_speed, name, value)
    with open_runner("ort", bundle) as runner:
        found = engine_speed.measure(runner)
        with runner.session(1, 48) as session:
            ids = np.zeros((1, 9), np.int64)
            empty, first = session.read_states(), session.prefill(ids)
            session.write_states(empty, np.zeros(1, np.int32))
            np.testing.assert_array_equal(session.prefill(ids), first)
    assert found["step"] > 0 and found["prefill"] > 0 and found["graph"] is None


def test_a_model_in_onnx_runtime_is_timed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROMPT": 48, "CONTEXT": 16, "STEPS": 4, "WARM_STEPS": 2}.items():
        monkeypatch.setattr(ort_speed, name, value)
    with OrtRunner(bundle, plugins=False) as runner:
        found = ort_speed.measure(runner, 1, profiled=False)
    assert found["step"] > 0 and found["prefill"] > 0 and found["layers"] == 2
    assert found["kernels"] is None and not found["captured"] and "`plugins=False`" in found["runner"]


@pytest.mark.parametrize("name", ["mamba", "llama"])
def test_the_original_steps_as_a_whole_pass_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(name)
    decoder = torch_speed.Decoder(model, compiled=False)
    tokens = torch.randint(0, model.config.vocab_size, (1, 7))
    with torch.no_grad(), quiet():
        decoder.prefill(tokens[:, :6])
        stepped = decoder.step(tokens[:, 6:])
        torch.testing.assert_close(stepped, decoder.prefill(tokens), rtol=1e-4, atol=1e-4)
        monkeypatch.setattr(torch_speed, "PEERS", ())
        with pytest.raises(SystemExit, match="peers' kernels"):
            torch_speed.check_peers(decoder, tokens)


def test_the_engine_is_held_against_the_fastest_original() -> None:
    slow = {"eager_step": 10.0, "compiled_error": "Unsupported: x", "prefill": 9.0}
    fast = {"eager_step": 8.0, "compiled_error": "Unsupported: y", "prefill": 3.0}
    engine = {"step": 2.0, "prefill": 1.0, "graph": 1.5}
    eager, compiled, prefill, *times = models.rows(Wanted("mamba-130m", "fp16"), [slow, fast], engine)
    assert (eager.measured, eager.met) == (4.0, True)
    assert compiled.passed is False and "Unsupported: x" in compiled.detail["error"]
    assert (prefill.measured, prefill.target) == (3.0, 1.5)
    assert [row.measured for row in times] == [2000.0, 1000.0]


@pytest.mark.parametrize("jobs", [1, 2])
def test_missing_engines_are_built_and_all_are_timed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    several = dataclasses.replace(setting, models=("mamba-130m", "llama-130m"), jobs=jobs)
    there, missing = (several.work / "bundles" / f"{name}-fp16" / "engines" for name in several.models)
    there.mkdir(parents=True)
    (there / "some.plan").touch()
    missing.parent.mkdir()
    built: list[str] = []

    def tensorrt(self: Setting, module: str, *arguments: object, log: str, **options: Any) -> str:
        if module.endswith("engine_speed"):
            (plan,) = Path(str(arguments[0]), "engines").glob("*.plan")
            return f"{json.dumps({'step': 1.0, 'prefill': 2.0, 'graph': None, 'runner': plan.name})}\n"
        built.append(log)
        missing.mkdir()
        (missing / "new.plan").touch()
        return ""

    times = json.dumps({"eager_step": 4.0, "compiled_step": 2.0, "prefill": 5.0})
    monkeypatch.setattr(Setting, "tensorrt", tensorrt)
    monkeypatch.setattr(Setting, "torch", lambda *arguments, **options: f"{times}\n")
    monkeypatch.setattr(Setting, "require_tensorrt", lambda self: None)
    rows = [row for row in models.run(several) if row.target]
    assert built == ["build-llama-130m-fp16"]
    assert [(row.measured, row.met) for row in rows] == [(4, True), (2, True), (2.5, True)] * 2
