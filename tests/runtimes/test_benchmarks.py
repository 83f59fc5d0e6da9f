"""The GPU run, as far as it goes without a GPU: its bookkeeping, and what ONNX Runtime can stand in for."""

from __future__ import annotations

import dataclasses
import io
import json
import stat
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, MambaConfig

from seqexport.exporter.pipeline import ExportOptions, export
from seqexport.plugins.errors import UserError
from seqexport.runtimes.backends import open_runner
from seqexport.runtimes.benchmarks import checkpoints, engine_speed, gpu, lock, long_run, ort_speed, peers, torch_speed
from seqexport.runtimes.benchmarks.bundles import Wanted, for_engines, for_speed
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.benchmarks.results import Report, Results, Row, StepResult, print_table
from seqexport.runtimes.benchmarks.setting import Gpu, LeftOut, Setting, StepFailed
from seqexport.runtimes.benchmarks.steps import engines, harness, kernel_tests, models
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.quiet import quiet
from tests.runtimes.tiny import make

SETUP = """\
cc_flag = []
if HIP_BUILD:
    pass
else:
    cc_flag.append("-gencode")
    cc_flag.append("arch=compute_75,code=sm_75")
    cc_flag.append('-gencode')
    cc_flag.append('arch=compute_80,code=sm_80')
    if bare_metal_version >= Version("12.8"):
        cc_flag.append("-gencode")
        cc_flag.append("arch=compute_100a,code=sm_100a")
    if True:
        cc_flag.append("-gencode")
        cc_flag.append("arch=compute_90,code=sm_90")
cc_flag.append("-lineinfo")
"""
GENCODE = ["-gencode", "arch=compute_87,code=sm_87"]
TINY = {
    "mamba": lambda: MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, rescale_prenorm_residual=False),
    "llama": lambda: LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                                 num_attention_heads=2, max_position_embeddings=4096),
}  # fmt: skip


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(Gpu("NVIDIA Test", "87"), tmp_path / "work")


@pytest.fixture(scope="module", params=list(TINY))
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Exported from a random checkpoint as the GPU run makes them."""
    folder = tmp_path_factory.mktemp(request.param)
    with quiet():
        checkpoints.create(TINY[request.param](), folder / "checkpoint")
        options = ExportOptions(model=str(folder / "checkpoint"), max_len=200)
        return export(options, folder / "bundle", lambda stage: nullcontext())


def test_a_setup_is_cut_to_one_architecture() -> None:
    names: dict[str, Any] = {"HIP_BUILD": False, "bare_metal_version": 13, "Version": lambda text: float(text)}
    exec(peers.only_architecture(SETUP, "87"), names)
    assert names["cc_flag"] == [*GENCODE, "-lineinfo"]


def test_a_setup_without_architectures_is_refused() -> None:
    with pytest.raises(ValueError, match="gencode"):
        peers.only_architecture("setup(name='x')\n", "90")


def test_peers_are_unpacked_inside_their_folder(tmp_path: Path, setting: Setting, monkeypatch: Any) -> None:
    for name, file in (("mamba_ssm", "mamba_ssm-2.0.tar.gz"), ("causal_conv1d", "causal-conv1d-1.7.tar.gz")):
        with tarfile.open(tmp_path / file, "w:gz") as archive:
            for path, text in ((f"{name}-2/setup.py", SETUP), (f"{name}-2/../../../evil", ""), (f"{name}-2/a/b", "c")):
                member = tarfile.TarInfo(path)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
    ran: list[tuple[list[str], dict[str, str]]] = []

    def install(self: Setting, command: Any, *, log: str, env: dict[str, str], **rest: Any) -> str:
        target, source = Path(command[-2]), Path(command[-1])
        ran.append(([file.name for file in sorted(source.rglob("*"))], env))
        (target / log.removeprefix("peers-")).mkdir(parents=True)
        return ""

    monkeypatch.setattr(Setting, "run", install)
    with pytest.raises(LeftOut, match="--sdists"):
        peers.build_peers(setting)
    peers.build_peers(msgspec_replace(setting, sdists=tmp_path))
    assert [files for files, _ in ran] == [["a", "b", "setup.py"]] * 2
    assert {"MAMBA_FORCE_BUILD", "CAUSAL_CONV1D_FORCE_BUILD"} <= set().union(*(env for _, env in ran))
    assert all(env["TORCH_CUDA_ARCH_LIST"] == "8.7" for _, env in ran)
    assert (setting.peers / "mamba_ssm").is_dir() and not list(tmp_path.rglob("evil"))
    ran.clear()
    peers.build_peers(setting)
    assert not ran


def msgspec_replace(setting: Setting, **changes: Any) -> Setting:
    return Setting(**{**setting.__dict__, **changes})


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
        msgspec_replace(setting, tensorrt_python="/no/such/python").require_tensorrt()


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


def test_which_bundles_are_wanted(setting: Setting, tmp_path: Path) -> None:
    assert len(for_engines(setting)) == 8 and {wanted.dtype for wanted in for_speed(setting)} == {"fp16"}
    some = msgspec_replace(setting, models=("mamba-130m",))
    assert for_engines(some) == [Wanted("mamba-130m", "fp32"), Wanted("mamba-130m", "fp16")]
    assert for_speed(some) == [Wanted("mamba-130m", "fp16")]
    given = for_engines(msgspec_replace(setting, bundles=(tmp_path / "mine",)))
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
    if bundle.contract.capacity is None:
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
    with open_runner("ort", bundle, no_plugins=True) as runner:
        found = ort_speed.measure(runner, 1, profiled=False)
    assert found["step"] > 0 and found["prefill"] > 0 and found["layers"] == 2
    assert found["kernels"] is None and not found["captured"] and "--no-plugins" in found["runner"]


@pytest.mark.parametrize("name", ["mamba", "llama"])
def test_the_original_steps_as_a_whole_pass_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(name)
    decoder = torch_speed.Decoder(model, compiled=False)
    tokens = torch.randint(0, model.config.vocab_size, (1, 7))
    with torch.no_grad(), quiet():
        decoder.prefill(tokens[:, :6])
        stepped = decoder.step(tokens[:, 6:])
        torch.testing.assert_close(stepped, decoder.prefill(tokens), rtol=1e-4, atol=1e-4)
        monkeypatch.setattr(torch_speed, "PROJECTS", ())
        with pytest.raises(SystemExit, match="peers' kernels"):
            torch_speed.check_peers(decoder, tokens)


def test_calls_of_the_peers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    extension = SimpleNamespace(__name__="selective_scan_cuda", fwd=lambda x: x + 1)
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", extension)  # type: ignore[arg-type]
    original = extension.fwd
    with torch_speed.counted() as counts:
        assert extension.fwd(1) == 2 and extension.fwd(2) == 3
    assert counts == {"fwd": 2} and extension.fwd is original


def test_the_engine_is_held_against_the_fastest_original() -> None:
    slow = {"eager_step": 10.0, "compiled_error": "Unsupported: x", "prefill": 9.0}
    fast = {"eager_step": 8.0, "compiled_error": "Unsupported: y", "prefill": 3.0}
    engine = {"step": 2.0, "prefill": 1.0, "graph": 1.5}
    eager, compiled, prefill, *times = models.rows(Wanted("mamba-130m", "fp16"), [slow, fast], engine)
    assert (eager.measured, eager.met) == (4.0, True)
    assert compiled.passed is False and "Unsupported: x" in compiled.detail["error"]
    assert (prefill.measured, prefill.target) == (3.0, 1.5)
    assert [row.measured for row in times] == [2000.0, 1000.0]


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


def test_only_headers_of_versions_with_the_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("tensorrt-8.6.1", "tensorrt-10.13.0", "tensorrt-10.3.0", "onnxruntime-1.29.0"):
        (tmp_path / "seqexport" / "headers" / name / "include").mkdir(parents=True)
    assert list(harness.cached_headers()) == ["10.3.0", "10.13.0"]
