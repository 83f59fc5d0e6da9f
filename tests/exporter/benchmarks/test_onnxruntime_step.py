"""The GPU run's step with ONNX Runtime, as far as it goes without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from seqexport.exporter.benchmarks import op_chains, op_libraries
from seqexport.exporter.benchmarks.bundles import Wanted
from seqexport.exporter.benchmarks.setting import LeftOut, Setting, StepFailed
from seqexport.exporter.benchmarks.steps import onnxruntime as onnxruntime_step
from seqexport.runtimes.benchmarks import ort_speed


def test_kernels_in_a_trace_are_summed() -> None:
    events = [{"cat": "kernel", "dur": 3.0}, {"cat": "kernel", "dur": 2}, {"cat": "gpu_memcpy", "dur": 9}, {"ph": "M"}]
    assert ort_speed.sum_of_kernels({"traceEvents": events}) == pytest.approx(5e-6)
    assert ort_speed.sum_of_kernels({"traceEvents": events[2:]}) is None


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_what_launches_no_kernel_has_no_time_of_kernels() -> None:
    assert ort_speed.kernel_seconds(lambda: torch.zeros(3), 2) is None


def test_an_op_is_held_against_the_bare_kernel() -> None:
    ms = {"library": 0.02, "library, captured": 0.0105, "bare kernel": 0.01, "function body": 2.0}
    result = {"op": "SelectiveScan", "tokens": 1024, "dtype": "float16", "ms": ms, "failed": {}}
    ordinary, captured, body = onnxruntime_step.op_rows(result)
    assert (ordinary.measured, ordinary.met) == (0.5, False)
    assert captured.met and "captured" in captured.name
    assert (body.measured, body.target) == (100, None)
    one = next(onnxruntime_step.op_rows(result | {"tokens": 1}))
    assert (one.measured, one.target) == (0.5, None)
    broken = result | {"ms": {"library": 0.02}, "failed": {"bare kernel": "ValueError: x", "function body": "y"}}
    assert [(row.passed, row.reason) for row in onnxruntime_step.op_rows(broken)][:1] == [
        (False, "bare kernel: ValueError: x")
    ]
    assert len(list(onnxruntime_step.op_rows(broken))) == 2


def test_an_op_is_timed_in_chains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path))
    for name, value in {"STEPS": (1, 3), "REPEATS": 3}.items():
        monkeypatch.setattr(op_chains, name, value)
    found, failed = op_chains.times("CausalConv1d", 1, torch.float32, 2, device="cpu")
    bodies, compiled = {"function body", "target ort"}, {"library", "library, captured", "bare kernel"}
    assert found.keys() | failed.keys() == bodies | compiled and found.keys() <= bodies
    assert all("too noisy" in failed[form] for form in bodies & failed.keys())
    assert all("not built" in failed[form] for form in compiled)


def test_ops_that_were_timed_before_a_crash_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: Setting
) -> None:
    rows = iter([{"ms": {"library": 1.0, "library, captured": 0.9, "bare kernel": 0.8}, "failed": {}}])
    monkeypatch.setattr(op_libraries, "_row", lambda *given: next(rows))
    monkeypatch.setattr(op_libraries.library, "require", lambda name: None)
    file = setting.work / "op_libraries.json"

    def crash(self: Setting, *command: object, log: str) -> str:
        CliRunner().invoke(op_libraries.main, ["-o", str(file), "--lock", str(tmp_path / "lock")])
        raise StepFailed(f"{log}: exit code -11")

    monkeypatch.setattr(Setting, "torch", crash)
    setting.work.mkdir(parents=True, exist_ok=True)
    ordinary, captured, failed = onnxruntime_step._ops(setting, tmp_path / "lock")
    assert (ordinary.measured, captured.name) == (0.8, "CausalAttention, 1024 tokens, float32, library, captured: "
                                                       "bare kernel's share")  # fmt: skip
    assert failed.passed is False and "exit code -11" in failed.reason


def test_a_model_is_held_against_its_function_bodies() -> None:
    ours = {"prompt": 1024, "context": 512, "layers": 24, "prefill": 0.02, "step": 0.001, "kernels": 0.00052,
            "captured": False, "runner": "ONNX Runtime"}  # fmt: skip
    bodies = ours | {"prefill": 2.0, "step": 0.01}
    mamba, llama = (Wanted(model, "fp16", target="portable") for model in ("mamba-130m", "llama-130m"))
    prefill, decode, *times, overhead = onnxruntime_step.model_rows(mamba, ours, bodies)
    assert (prefill.measured, prefill.met, decode.measured, decode.target) == (100, True, 10, None)
    assert prefill.name.startswith("mamba-130m-fp16-portable: ")
    assert [row.measured for row in times] == [20, 1]
    assert overhead.measured == pytest.approx(0.5) and overhead.met is False
    assert overhead.detail["us a layer beyond kernels"] == 20
    *_, captured = onnxruntime_step.model_rows(llama, ours | {"captured": True}, bodies)
    assert captured.met and next(onnxruntime_step.model_rows(llama, ours, bodies)).target is None
    *_, untold = onnxruntime_step.model_rows(mamba, ours | {"kernels": None}, bodies)
    assert untold.met is None and "CUPTI" in untold.reason


def test_without_cuda_in_onnx_runtime_its_step_is_left_out(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1", get_available_providers=list))  # type: ignore[arg-type]
    with pytest.raises(LeftOut, match="no CUDAExecutionProvider; put onnxruntime-gpu first"):
        next(onnxruntime_step.run(setting))
