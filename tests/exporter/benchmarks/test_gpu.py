"""The GPU run as a whole, without a GPU: its command, its bookkeeping, and the steps that only read results."""

from __future__ import annotations

import dataclasses
import io
import json
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rich.console import Console

from seqexport.exporter.benchmarks import gpu
from seqexport.exporter.benchmarks.results import Report, Results, Row, StepResult, print_table
from seqexport.exporter.benchmarks.setting import Gpu, LeftOut, Setting, StepFailed
from seqexport.exporter.benchmarks.steps import harness, kernel_speed, kernel_tests
from seqexport.plugins.errors import UserError
from seqexport.runtimes.benchmarks import lock
from seqexport.runtimes.benchmarks.cli import run


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 9.0'\necho 'NVIDIA Other, 8.0'\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


def run_gpu(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr("sys.argv", ["gpu", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        run(gpu.command)
    return exited.value.code


def test_no_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_gpu(monkeypatch, "-o", tmp_path / "gpu.json", "--work", tmp_path / "work") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no nvidia-smi") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_driver_without_a_gpu_is_one_line(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert run_gpu(monkeypatch) == 2
    assert "No devices were found" in capsys.readouterr().err


def test_an_unknown_step_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run_gpu(monkeypatch, "--only", "kernels,typo") == 2
    assert "typo" in capsys.readouterr().err


def test_a_run_in_parts_writes_one_file(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    output, failing = tmp_path / "gpu.json", [True]

    def build(setting: Setting) -> Iterator[Row]:
        assert setting.gpu == Gpu("NVIDIA H100 80GB HBM3", "90")
        yield Row("kernels", passed=True)
        if failing[0]:
            raise StepFailed("nvcc: no such file")

    def speed(setting: Setting) -> Iterator[Row]:
        assert json.loads(output.read_text())["steps"][0]["step"] == "build"
        yield Row("scan", measured=1.2, unit="x", target=1.3)
        yield Row("conv", measured=0.95, unit="x", target=0.9, detail={"us": 120})

    def harness(setting: Setting) -> Iterator[Row]:
        raise LeftOut("no headers")
        yield

    fakes = {"build": build, "speed": speed, "harness": harness}
    monkeypatch.setattr(gpu, "load_step", fakes.__getitem__)
    common = ["-o", output, "--work", tmp_path / "work"]
    assert run_gpu(monkeypatch, "--only", "speed,build,harness", *common) == 1
    printed = capsys.readouterr().out
    assert "missed" in printed and "met" in printed and "no headers" in printed
    failing[0] = False
    assert run_gpu(monkeypatch, "--only", "build", *common) == 0
    report = msgspec.json.decode(output.read_bytes(), type=Report)
    assert [(step.step, step.status) for step in report.steps] == [
        ("build", "passed"), ("harness", "left out"), ("speed", "passed"),
    ]  # fmt: skip
    assert report.gpu == "NVIDIA H100 80GB HBM3" and report.compute_capability == "90"
    assert [row.met for row in report.steps[2].rows] == [False, True]


def test_what_a_step_found_before_it_was_cut_off_is_kept(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output, cut = tmp_path / "gpu.json", [True]

    def speed(setting: Setting) -> Iterator[Row]:
        yield Row("scan", measured=1.2)
        if cut[0]:
            raise KeyboardInterrupt
        yield Row("conv", measured=0.95)

    monkeypatch.setattr(gpu, "load_step", {"speed": speed}.__getitem__)
    common = ["--only", "speed", "-o", output, "--work", tmp_path / "work"]
    assert run_gpu(monkeypatch, *common) not in (0, 2)
    (step,) = msgspec.json.decode(output.read_bytes(), type=Report).steps
    assert (step.status, step.why, [row.name for row in step.rows]) == ("failed", gpu.CUT_OFF, ["scan"])
    cut[0] = False
    assert run_gpu(monkeypatch, *common) == 0
    cut[0] = True
    run_gpu(monkeypatch, *common)
    (step,) = msgspec.json.decode(output.read_bytes(), type=Report).steps
    assert (step.status, [row.name for row in step.rows]) == ("passed", ["scan", "conv"])


def test_a_failed_row_fails_the_step_and_keeps_the_others(setting: Setting) -> None:
    def step(setting: Setting) -> Iterator[Row]:
        yield Row("fp32", passed=True)
        yield Row("fp16", passed=False)
        raise UserError("libseqexport_kernels.so: not built")

    result = gpu.run_step("engines", step, setting)
    assert (result.status, result.why) == ("failed", "libseqexport_kernels.so: not built")
    assert [row.name for row in result.rows] == ["fp32", "fp16"]
    assert gpu.run_step("x", lambda s: iter([Row("fp16", passed=False)]), setting).why == "failed: fp16"
    assert gpu.run_step("x", lambda s: iter([{}[s]]), setting).why.startswith("KeyError")


def test_every_step_can_be_loaded() -> None:
    assert all(callable(gpu.load_step(name)) for name in gpu.STEPS)


def test_results_of_a_step_run_for_other_models_are_added(tmp_path: Path) -> None:
    results = Results(tmp_path, ["models"])
    results.keep(StepResult("models", "passed", 1, (Row("a", measured=1), Row("b", measured=2))))
    results.keep(StepResult("models", "passed", 1, (Row("b", measured=3), Row("c", measured=4))))
    assert {row.name: row.measured for row in results.read()["models"].rows} == {"a": 1, "b": 3, "c": 4}
    results.keep(StepResult("models", "failed", 1, (Row("c", passed=False),)))
    assert [row.name for row in results.read()["models"].rows] == ["c"]
    (tmp_path / "models.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        results.read()


def test_the_table_shows_numbers_and_what_failed() -> None:
    rows = (Row("held", passed=True), Row("broken", passed=False), Row("bare", measured=7.0, unit="us"))
    console = Console(file=io.StringIO(), width=120)
    print_table(console, [StepResult("kernels", "failed", 3, rows, "failed: broken")])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "broken" in text and "7 us" in text and "held" not in text


def test_a_program_that_fails_is_quoted(setting: Setting) -> None:
    with pytest.raises(StepFailed, match=r"demo: exit code 3: .*went wrong"):
        setting.run([sys.executable, "-c", "import sys; print('went wrong', file=sys.stderr); sys.exit(3)"], log="demo")
    assert setting.run([sys.executable, "-c", "print(1); raise SystemExit(3)"], log="demo", allowed=(3,)) == "1\n"
    impatient = dataclasses.replace(setting, timeout=0.2)
    with pytest.raises(StepFailed, match="not done after"):
        impatient.run([sys.executable, "-c", "import time; time.sleep(30)"], log="slow")
    with pytest.raises(StepFailed, match="cannot be started"):
        setting.run(["/no/such/program"], log="none")
    with pytest.raises(LeftOut, match="--tensorrt-python"):
        dataclasses.replace(setting, tensorrt_python="/no/such/python").require_tensorrt()


def test_who_is_timed_is_alone(tmp_path: Path) -> None:
    import fcntl

    file = tmp_path / "gpu.lock"

    def is_free(kind: int) -> bool:
        with file.open("a") as other:
            try:
                fcntl.flock(other, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with lock.together(file):
        assert is_free(fcntl.LOCK_SH) and not is_free(fcntl.LOCK_EX)
    with lock.alone(file):
        assert not is_free(fcntl.LOCK_SH)
    assert is_free(fcntl.LOCK_EX)


def test_counts_of_a_test_run(tmp_path: Path) -> None:
    file = tmp_path / "results.xml"
    file.write_text(
        '<testsuites><testsuite><testcase classname="tests.kernels.test_a" name="x"/>'
        '<testcase classname="tests.kernels.test_a" name="y"><failure/></testcase>'
        '<testcase classname="tests.ops.test_b" name="z"><skipped/></testcase>'
        '<testcase classname="tests.c" name="v"><properties><property name="sets" value="avx2"/></properties>'
        "</testcase></testsuite></testsuites>"
    )
    first, second, third = kernel_tests.rows(file)
    assert (first.passed, first.detail) == (False, {"passed": 1, "failure": 1, "failed": ["y"]})
    assert (second.passed, second.detail) == (True, {"skipped": 1, "failed": []})
    assert (third.passed, third.detail) == (True, {"passed": 1, "sets": "avx2", "failed": []})


def test_selected_tests_say_what_was_selected(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def pytest_run(self: Setting, command: Sequence[object], **options: object) -> str:
        results = self.work / "chosen.xml"
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text('<testsuites><testcase classname="tests.ops.test_a" name="x[cuda]"/></testsuites>')
        assert command[command.index("-k") + 1] == "cuda"
        return ""

    monkeypatch.setattr(Setting, "run", pytest_run)
    (row,) = kernel_tests.run_tests(setting, ("tests/ops",), log="chosen", select="cuda")
    assert row.detail == {"passed": 1, "failed": [], "selected": "cuda"}


def test_the_harness_must_launch() -> None:
    assert harness.row("10.13.0", "{}\nok: shapes\nok: launch: 1e-4\n0 failed\n").passed
    assert not harness.row("10.13.0", "ok: shapes\nlaunches left out: no CUDA device\n0 failed\n").passed
    assert harness.row("10.13.0", "ok: a\nFAILED: b\n1 failed\n").detail == {"held": 1, "failed": ["FAILED: b"]}
    assert not harness.row("10.13.0", "").passed


def test_every_version_of_which_there_are_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("tensorrt-8.6.1", "tensorrt-10.13.0", "tensorrt-10.3.0", "onnxruntime-1.29.0"):
        (tmp_path / "seqexport" / "headers" / name / "include").mkdir(parents=True)
    assert list(harness.cached_headers()) == ["8.6.1", "10.3.0", "10.13.0"]


def test_the_kernels_tests_are_told_which_library_is_built(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they take none, and the ops' tests on CUDA are left out."""
    told: list[object] = []
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path))
    monkeypatch.setattr(kernel_tests.library, "require", lambda name: None)
    monkeypatch.setattr(kernel_tests, "run_tests", lambda *a, env, **k: told.append(env) or iter(()))
    assert list(kernel_tests.run(setting)) == []
    assert told == [{"SEQEXPORT_PLUGINS": str(tmp_path)}]


def test_a_kernel_is_held_to_a_time_or_to_a_peer() -> None:
    row = {"op": "scan", "shape": "N=1", "ours_us": 10.0}
    within = {**row, "measure": "us", "target": 12, "at_most": True, "measured": 10.0}
    slower = {**row, "measure": "times mamba_ssm", "target": 1.3, "at_most": False, "measured": 1.2}
    plain = {**row, "op": "conv", "measure": None, "target": None, "at_most": False, "measured": None}
    failed = {"op": "linear", "shape": "(1,)", "error": "out of memory"}
    found = {"copy_bytes_per_s": 4e12, "matrix_flop_per_s": 8e14, "rows": [within, slower, plain], "failures": [failed],
             "torch": "2.11.0"}  # fmt: skip
    rows = list(kernel_speed.rows(found))
    assert [(row.name, row.measured, row.met) for row in rows[2:5]] == [
        ("scan N=1", 10.0, True), ("scan N=1: times mamba_ssm", 1.2, False), ("conv N=1", 10.0, None),
    ]  # fmt: skip
    assert (rows[0].measured, rows[1].measured) == (4, 800)
    assert rows[5].passed is False and rows[5].reason == "out of memory"


def test_what_was_timed_counts_even_if_another_case_failed(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def program(self: Setting, module: str, *arguments: object, **options: object) -> str:
        if written[0]:
            found = {"copy_bytes_per_s": 4e12, "matrix_flop_per_s": 8e14, "rows": [], "failures": [], "torch": "2"}
            Path(str(arguments[-1])).write_text(json.dumps(found))
        raise StepFailed("exit code 1")

    built = SimpleNamespace(path=tmp_path / "kernels.so")
    written = [True]
    setting.work.mkdir()
    monkeypatch.setattr(kernel_speed.library, "require", lambda name: built)
    monkeypatch.setattr(Setting, "torch", program)
    assert [row.name for row in kernel_speed.run(setting)][1:] == ["copy", "matrix"]
    written[0] = False
    with pytest.raises(StepFailed, match="exit code 1"):
        list(kernel_speed.run(setting))
