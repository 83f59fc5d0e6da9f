"""``build``, ``bench`` and ``--backend trt``: what is refused first, and where TensorRT or a GPU is missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from seqexport.runtimes.trt import cuda, versions
from tests.cli.conftest import Run
from tests.conftest import Exported

TRT = (("verify",), ("generate", "--prompt", "x"), ("bench",))


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A ``tensorrt`` package that can be imported and no more."""
    package = SimpleNamespace(__version__="8.6.0")
    monkeypatch.setitem(sys.modules, "tensorrt", package)
    versions.load_tensorrt.cache_clear()
    yield package
    versions.load_tensorrt.cache_clear()


@pytest.fixture
def no_tensorrt(tensorrt: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CUDA's bindings on a machine without a GPU."""
    none = SimpleNamespace(name="cudaErrorNoDevice")
    runtime = SimpleNamespace(cudaGetDeviceCount=lambda: (none, None))
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=runtime))
    cuda.load_runtime.cache_clear()
    yield
    cuda.load_runtime.cache_clear()


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> Path:
    return exported("preset:mamba", target="tensorrt", dtype="float32", logits="last").path


@pytest.mark.usefixtures("no_tensorrt")
def test_no_tensorrt_is_one_line(run: Run, bundle: Path) -> None:
    for refusal in (
        run("build", bundle).refusal,
        *(run(command, bundle, "--backend", "trt", *more).refusal for command, *more in TRT),
    ):
        assert refusal.startswith("the backend 'trt' needs TensorRT (")
        assert "pip install 'seqexport[trt]'" in refusal
    assert not (bundle / "engines").exists()


@pytest.mark.usefixtures("no_tensorrt")
def test_compare_shows_a_backend_that_is_missing_as_a_failure(run: Run, bundle: Path) -> None:
    result = run("compare", bundle, "--backends", "trt", "--quick")
    assert result.code == 1
    assert "needs TensorRT" in " ".join(result.out.split())


def test_an_old_tensorrt_is_one_line(run: Run, bundle: Path, tensorrt: SimpleNamespace) -> None:
    tensorrt.__version__ = "8.5.2"
    assert run("build", bundle).refusal.startswith("TensorRT 8.5.2: expected 8.6 or newer")


@pytest.mark.usefixtures("tensorrt")
def test_no_cuda_bindings_is_one_line(run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    cuda.load_runtime.cache_clear()
    refusal = run("verify", bundle, "--backend", "trt").refusal
    assert refusal.startswith("the backend 'trt' needs NVIDIA's CUDA bindings (")
    assert "pip install cuda-bindings" in refusal


@pytest.mark.usefixtures("tensorrt", "no_gpu")
def test_no_gpu_is_one_line(run: Run, bundle: Path) -> None:
    for refusal in (run("build", bundle).refusal, run("verify", bundle, "--backend", "trt").refusal):
        assert refusal.startswith("no NVIDIA GPU that CUDA can use (cudaErrorNoDevice)")


def test_what_is_no_bundle_is_one_line(run: Run, tmp_path: Path) -> None:
    for name in ("nowhere", "nowhere.onnx"):
        assert f"{name} is not a bundle: cannot read" in run("build", tmp_path / name).refusal


@pytest.mark.usefixtures("no_tensorrt")
def test_a_foreign_graph_is_announced_and_a_bundles_own_is_its_bundle(run: Run, bundle: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "other.onnx"
    foreign.write_bytes(b"")
    result = run("build", foreign)
    assert result.code == 2
    assert "is no bundle of ours: plain TensorRT builds it as it is" in " ".join(result.err.split())
    assert run("build", bundle / "model.onnx").refusal.startswith("the backend 'trt' needs TensorRT")
    assert [file.name for file in tmp_path.iterdir()] == ["other.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--maxShapes", "input_ids"], "--maxShapes 'input_ids': expected each input once, as in input_ids:1x128"),
        (["--memPoolSize", "workspace"], "--memPoolSize 'workspace': expected a pool and a size in MiB"),
        (["--setPluginsToSerialize"], "--setPluginsToSerialize needs --versionCompatible"),
        (
            ["--setPluginsToSerialize", "--versionCompatible", "--no-plugins"],
            "--setPluginsToSerialize and --no-plugins exclude each other",
        ),
    ],
)
def test_options_are_checked_first(run: Run, bundle: Path, options: list[str], message: str) -> None:
    assert message in run("build", bundle, *options).refusal


def test_options_that_shape_the_engine_are_recorded_as_they_were_spelled() -> None:
    from seqexport.exporter.commands.build import SHAPING, _options

    given: dict[str, object] = dict.fromkeys(SHAPING)
    given |= {"max_shapes": "input_ids:2x8", "version_compatible": True, "no_plugins": False, "tactic_sources": "none"}
    options = _options(None, given)
    assert options.flags == {"--maxShapes": "input_ids:2x8", "--versionCompatible": "", "--tactic-sources": "none"}
    assert options.shapes.max == {"input_ids": (2, 8)}
    assert (options.tactic_sources, options.plugins, options.version_compatible) == ([], True, True)
    assert _options(None, given | {"tactic_sources": "CUBLAS,CUDNN"}).tactic_sources == ["CUBLAS", "CUDNN"]
    assert _options(None, given | {"tactic_sources": None}).tactic_sources is None


def test_bench_prints_a_table_and_writes_json(run: Run, shipped: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    result = run("bench", shipped, "--lengths", "8,4", "--batches", "1,2", "--steps", "2", "--repeats", "1", "-o", file)
    assert (result.code, result.err) == (0, "")
    assert "CPUExecutionProvider" in result.out
    points = json.loads(file.read_text())["points"]
    assert [(p["batch"], p["length"]) for p in points] == [(1, 4), (2, 4), (1, 8), (2, 8)]
    assert all(p["prefill_seconds"] > 0 and p["decode_seconds"] > 0 for p in points)


def test_bench_exits_1_when_no_size_could_run(run: Run, shipped_transformer: Path) -> None:
    result = run("bench", shipped_transformer, "--lengths", "9000")
    assert result.code == 1
    assert "the bundle's capacity is 8192 tokens" in result.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lengths", "1,x"], "--lengths '1,x': expected numbers from 1 on, separated by commas"),
        (["--batches", "0"], "--batches '0': expected numbers"),
        (["-o", "/nowhere/bench.json"], "-o /nowhere/bench.json: the folder /nowhere does not exist"),
    ],
)
def test_bad_requests_to_bench_are_one_line(run: Run, shipped: Path, options: list[str], message: str) -> None:
    assert message in run("bench", shipped, *options).refusal
