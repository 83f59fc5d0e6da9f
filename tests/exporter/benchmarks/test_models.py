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
from transformers import AutoModelForCausalLM

from seqexport.exporter.benchmarks import bundles
from seqexport.exporter.benchmarks import peers as builds
from seqexport.exporter.benchmarks.bundles import Wanted, for_engines, for_speed
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import Setting, StepFailed
from seqexport.exporter.benchmarks.steps import engines, models
from seqexport.plugins.errors import UserError
from seqexport.runtimes.backends import open_runner
from seqexport.runtimes.benchmarks import checkpoints, engine_speed, long_run, ort_speed, peers, timing, torch_speed
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.quiet import quiet
from tests.exporter.benchmarks.conftest import TINY
from tests.runtimes.tiny import make


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"PROMPT": 48, "CONTEXT": 16, "STEPS": 8, "WARM_STEPS": 2, "PROMPT_REPEATS": 2, "ANSWERS": 4, "SAMPLE": 32}
    for module in (timing, engine_speed, torch_speed):
        for name in sizes.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, sizes[name])


def test_which_bundles_are_wanted(setting: Setting, tmp_path: Path) -> None:
    assert len(for_engines(setting)) == 12 and {wanted.dtype for wanted in for_speed(setting)} == {"fp16"}
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
    sizes = {}
    for name in bundles.HUGE:
        with torch.device("meta"):
            sizes[name] = AutoModelForCausalLM.from_config(configs[name]).num_parameters()
    assert 2.70e9 < sizes["mamba2-2.7b"] < 2.71e9 and 3.97e9 < sizes[bundles.HYBRID] < 3.98e9
    assert abs(sizes[bundles.ITS_SIZE] / sizes[bundles.HYBRID] - 1) < 0.05
    assert configs[bundles.ITS_SIZE].hidden_size == configs[bundles.HYBRID].hidden_size


def test_a_huge_checkpoint_makes_room_for_its_bundle(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def program(self: Setting, module: str, *arguments: object, **options: object) -> str:
        Path(str(arguments[-1])).mkdir(parents=True)
        return ""

    monkeypatch.setattr(Setting, "torch", program)
    for model, kept in (("mamba2-2.7b", False), ("mamba-1.4b", True)):
        wanted = Wanted(model, "fp16")
        assert bundles.ensure_bundle(setting, wanted).is_dir() and wanted.checkpoint(setting).exists() is kept


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
    shorten(monkeypatch)
    with open_runner("ort", bundle) as runner:
        found = engine_speed.measure(runner)
        with runner.session(1, 48) as session:
            ids = np.zeros((1, 9), np.int64)
            empty, first = session.read_states(), session.prefill(ids)
            session.write_states(empty, np.zeros(1, np.int32))
            np.testing.assert_array_equal(session.prefill(ids), first)
    assert found["step"] > 0 and found["prefill"] > 0 and found["graph"] is None
    assert [len(found["answers"][what]) for what in ("likeliest", "logits")] == [4, 4]


def test_a_model_in_onnx_runtime_is_timed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROMPT": 48, "CONTEXT": 16, "STEPS": 4, "WARM_STEPS": 2}.items():
        monkeypatch.setattr(ort_speed, name, value)
    with OrtRunner(bundle, plugins=False) as runner:
        found = ort_speed.measure(runner, 1, profiled=False)
    assert found["step"] > 0 and found["prefill"] > 0 and found["layers"] == 2
    assert found["kernels"] is None and not found["captured"] and "`plugins=False`" in found["runner"]


@pytest.mark.parametrize("name", ["mamba", "mamba2", "llama"])
def test_the_original_steps_as_a_whole_pass_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(name, **({"time_step_limit": (0.0, float("inf"))} if name == "mamba2" else {}))
    decoder = torch_speed.Decoder(model, compiled=False)
    tokens = torch.randint(0, model.config.vocab_size, (1, 7))
    with torch.no_grad(), quiet():
        decoder.prefill(tokens[:, :6])
        stepped = decoder.step(tokens[:, 6:])
        torch.testing.assert_close(stepped, decoder.prefill(tokens), rtol=1e-4, atol=1e-4)
        monkeypatch.setattr(peers, "NAMES", ())
        with pytest.raises(UserError, match="peers' kernels"):
            peers.require_called(model, lambda: decoder.prefill(tokens))


@pytest.mark.parametrize("compiles", [True, False])
def test_the_original_and_the_engine_are_timed_and_say_the_same(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiles: bool
) -> None:
    """The random weights are made anew; ONNX Runtime stands in for TensorRT, and any compiler for Inductor."""

    def compile(forward: Any, mode: str) -> Any:
        return forward if compiles else lambda **arguments: {}["no such backend"]

    shorten(monkeypatch)
    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setitem(checkpoints.SHAPES, "tiny", TINY[bundle.manifest.architecture])
    with torch.no_grad(), quiet():
        original = torch_speed.measure(lambda: torch_speed.load("tiny"), expect_peers=False, lock=tmp_path / "lock")
    with open_runner("ort", bundle) as runner:
        engine = engine_speed.measure(runner)
    assert ("compiled_step" in original) == compiles and ("KeyError" in original.get("compiled_error", "")) != compiles
    same, eager, compiled, prefill, *_ = models.rows(Wanted("mamba2-2.7b", "fp16"), [original], engine)
    assert same.passed and same.detail["same_likeliest"] > 0.5
    assert (eager.target, prefill.target) == (3.0 if compiles else 5.0, 2.0)
    assert "no such backend" in compiled.reason if not compiles else compiled.measured is not None


def test_another_model_does_not_say_the_same() -> None:
    exact = {"logits": [[1.0, 2.0], [3.0, -1.0]]}
    original = {"likeliest": [1, 2], "logits": [[1.0, 2.2], [3.0, -1.0]]}

    def engine(logit: float) -> Row:
        said = {"likeliest": [1, 0], "logits": [[1.0, logit], [3.0, -1.0]]}
        return models.agreement(Wanted("llama-4b", "fp16"), original, exact, said)

    row = engine(2.5)
    assert row.passed is False and row.detail["same_likeliest"] == 0.5
    assert row.detail["error"] == pytest.approx(0.5 / 15**0.5)
    assert row.detail["allowed"] == pytest.approx(0.4 / 15**0.5)
    assert engine(1.7).passed and not engine(np.nan).passed


def test_the_engine_is_held_against_the_fastest_original() -> None:
    said = {"likeliest": [1], "logits": [[1.0]]}
    slow = {"eager_step": 10.0, "compiled_error": "Unsupported: x", "prefill": 9.0, "answers": said, "exact": said}
    fast = {"eager_step": 8.0, "compiled_error": "Unsupported: y", "prefill": 3.0, "answers": said, "exact": said}
    engine = {"step": 2.0, "prefill": 1.0, "graph": 1.5, "answers": said}
    same, eager, compiled, prefill, *times = models.rows(Wanted("mamba-130m", "fp16"), [slow, fast], engine)
    assert same.passed and (eager.measured, eager.target, eager.met) == (4.0, 5.0, False)
    assert (compiled.passed, compiled.measured) == (None, None) and "Unsupported: x" in compiled.reason
    assert (prefill.measured, prefill.target) == (3.0, 1.5)
    assert [row.measured for row in times] == [2000.0, 1000.0]
    assert "answers" not in json.dumps([msgspec.to_builtins(row) for row in times])
    alone = models.rows(Wanted("mamba-130m", "fp16"), [], {**engine, "answers": said})
    assert [row.measured for row in alone] == [2000.0, 1000.0]


def test_a_hybrid_is_held_against_a_transformer_of_its_size() -> None:
    (row,) = models.hybrid_row({bundles.HYBRID: 0.26, bundles.ITS_SIZE: 0.2})
    assert row.measured == pytest.approx(1.3) and row.at_most
    assert [met_at(row, measured) for measured in (1.29, 1.31)] == [True, False]
    assert not list(models.hybrid_row({bundles.HYBRID: 0.26}))


def met_at(row: Row, measured: float) -> bool | None:
    return msgspec.structs.replace(row, measured=measured).met


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
    said = {"answers": {"likeliest": [1], "logits": [[1.0]]}}

    def tensorrt(self: Setting, module: str, *arguments: object, log: str, **options: Any) -> str:
        if module.endswith("engine_speed"):
            (plan,) = Path(str(arguments[0]), "engines").glob("*.plan")
            return f"{json.dumps({'step': 1.0, 'prefill': 2.0, 'graph': None, 'runner': plan.name, **said})}\n"
        built.append(log)
        missing.mkdir()
        (missing / "new.plan").touch()
        return ""

    times = json.dumps({"eager_step": 4.0, "compiled_step": 2.0, "prefill": 5.0, **said, "exact": said["answers"]})
    monkeypatch.setattr(Setting, "tensorrt", tensorrt)
    monkeypatch.setattr(Setting, "torch", lambda *arguments, **options: f"{times}\n")
    monkeypatch.setattr(Setting, "require_tensorrt", lambda self: None)
    rows = [row for row in models.run(several) if row.target]
    assert built == ["build-llama-130m-fp16"]
    assert [(row.measured, row.met) for row in rows] == [(4, True), (2, True), (2.5, True)] * 2


def test_a_model_that_fails_does_not_keep_others_from_being_timed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = dataclasses.replace(setting, models=(*bundles.HUGE, "mamba-1.4b"))
    said = {"answers": {"likeliest": [1], "logits": [[1.0]]}}

    def torch_module(self: Setting, module: str, *arguments: object, log: str, with_peers: bool = False) -> str:
        assert (with_peers and log.endswith("-peers")) or arguments[0] in ("llama-4b", "mamba-1.4b")
        if arguments[0] == "mamba2-2.7b":
            raise StepFailed("out of memory")
        exact = {"exact": said["answers"]}
        return json.dumps({"eager_step": 4.0, "compiled_step": 2.0, "prefill": 5.0, **said, **exact})

    def export(setting: Setting, wanted: Wanted) -> Path:
        if wanted.model == "mamba-1.4b":
            raise StepFailed("disk full")
        return wanted.folder(setting)

    def tensorrt(self: Setting, module: str, *arguments: object, log: str) -> str:
        return json.dumps({"step": 1.0, "prefill": 2.6 if "nemotron" in log else 2.0, "graph": None, **said})

    several.work.mkdir()
    monkeypatch.setattr(Setting, "torch", torch_module)
    monkeypatch.setattr(Setting, "tensorrt", tensorrt)
    monkeypatch.setattr(Setting, "require_tensorrt", lambda self: None)
    monkeypatch.setattr(models, "ensure_bundle", export)
    monkeypatch.setattr(builds, "build_peers", lambda setting: ["mamba_ssm"])
    found = {row.name: row for row in models.run(several)}
    assert [name for name, row in found.items() if row.passed is False] == [
        "mamba-1.4b-fp16: export", "mamba2-2.7b-fp16: transformers",
    ]  # fmt: skip
    assert found["mamba2-2.7b-fp16: prefill"].measured == 2000 and found["llama-4b-fp16: decode"].measured == 1000
    assert found["nemotron-3-nano-4b-fp16: prefill of 2048 tokens, times llama-4b's"].met
    assert found["nemotron-3-nano-4b-fp16: prefill of 2048 tokens, times transformers"].target == 2.0
