"""Bundles through ``OrtRunner``: the library where there is one that loads, the function bodies where not."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.runtimes.comparison.reference import read_reference
from seqexport.runtimes.comparison.verify import verify
from seqexport.runtimes.ort.runner import Device, OrtRunner
from tests.conftest import Exported
from tests.runtimes.ort_attention import runnable
from tests.runtimes.test_verify import Truth, truth

__all__ = ["truth"]
MODELS = ["preset:mamba", "preset:transformer", "preset:hybrid"]
CROSS = "aarch64-linux-gnu-g++"


@pytest.fixture
def plugins(native_library: Callable[[str], Path], native_plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    native_library("onnxruntime")
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(native_plugins))
    return native_plugins


@pytest.fixture
def lone_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Installs one file as the library of ONNX Runtime ops, and nothing else."""

    def install(file: Path) -> Path:
        placed = Path(shutil.copy(file, tmp_path / library.FILES["onnxruntime"]))
        digest = hashlib.sha256(placed.read_bytes()).hexdigest()
        entry = library.Built("onnxruntime", placed, digest, library.version(), {"onnxruntime": "1.18.0"})
        (tmp_path / library.MANIFEST).write_bytes(library.manifest_of([entry]))
        monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path))
        return placed

    return install


def generated(runner: OrtRunner) -> list[np.ndarray]:
    """Logits of a ragged prompt of two rows and of some steps after it."""
    tokens = np.arange(40).reshape(2, 20) * 5 % runner.manifest.vocab_size
    with runner.session(2, 64) as session:
        logits = [session.prefill(tokens, np.array([20, 9]))[[0, 1], [19, 8]]]
        for step in range(8):
            logits.append(session.step(tokens[:, step]))
    return logits


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("target", ["portable", "ort", "tensorrt"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_shipped_models_are_as_accurate_as_pytorch(
    exported: Exported, plugins: Path, device: Device, model: str, target: str, dtype: str
) -> None:
    bundle = runnable(exported(model, target=target, dtype=dtype, logits="all"))
    with OrtRunner(bundle, device=device, threads=2) as runner:
        assert f"ops by {library.FILES['onnxruntime']}" in runner.description
        worse = [check for check in verify(runner, read_reference(bundle)) if not check.passed]
    assert worse == []


@pytest.mark.parametrize("target", ["portable", "ort"])
@pytest.mark.parametrize("chunk", [1, 64])
def test_2000_tokens_stay_as_accurate_as_pytorch(
    exported: Exported, plugins: Path, device: Device, truth: tuple[str, Truth], target: str, chunk: int
) -> None:
    name, true = truth
    bundle = runnable(exported(name, target=target, dtype="float32", logits="all"))
    with OrtRunner(bundle, device=device, threads=2) as runner:
        true.check(runner, chunk, device)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("target", ["portable", "ort"])
def test_no_plugins_runs_the_bodies_which_agree(exported: Exported, plugins: Path, model: str, target: str) -> None:
    bundle = runnable(exported(model, target=target, dtype="float32", logits="all"))
    with OrtRunner(bundle, threads=1) as ours, OrtRunner(bundle, threads=1, plugins=False) as bodies:
        assert "ops by function bodies (`plugins=False` was given)" in bodies.description
        assert bodies.caches_in_place == bundle.manifest.caches_in_place
        for a, b in zip(generated(ours), generated(bodies), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        repeated = generated(ours)
        assert all((a == b).all() for a, b in zip(repeated, generated(ours), strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_a_row_of_a_batch_gives_what_it_gives_alone(exported: Exported, plugins: Path, model: str) -> None:
    """To the bit, whatever the other rows are and on several threads too."""
    bundle = runnable(exported(model, target="ort", dtype="float32", logits="last"))
    tokens = np.random.default_rng(0).integers(0, bundle.manifest.vocab_size, (5, 24))
    lengths = np.array([24, 7, 24, 1, 13])
    with OrtRunner(bundle, threads=2) as runner, runner.session(5, 64) as batch:
        assert f"ops by {library.FILES['onnxruntime']}" in runner.description
        together = [batch.prefill(tokens, lengths)[:, 0], *(batch.step(tokens[:, step]) for step in range(4))]
        for row, length in enumerate(lengths):
            with runner.session(1, 64) as alone:
                first = alone.prefill(tokens[row : row + 1], lengths[row : row + 1])[:, 0]
                for shared, own in zip(
                    together, [first, *(alone.step(tokens[row : row + 1, step]) for step in range(4))], strict=True
                ):
                    np.testing.assert_array_equal(shared[row], own[0], err_msg=f"row {row} of {length} tokens")


def test_caches_are_updated_in_place(exported: Exported, plugins: Path) -> None:
    bundle = exported("preset:transformer", target="portable", dtype="float32", logits="all")
    with OrtRunner(bundle, threads=1) as runner, runner.session(1, 16) as session:
        assert not bundle.manifest.caches_in_place
        for spec in runner.manifest.states:
            assert session._past[spec.past_name] is session._present[spec.present_name]
        session.prefill(np.arange(16)[None])
        with pytest.raises(UserError, match="this session's capacity is 16"):
            session.step(np.array([1]))


def test_without_a_library_the_bodies_run(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path))
    with OrtRunner(exported("preset:mamba", target="portable", dtype="float32", logits="all")) as runner:
        assert "ops by function bodies (libseqexport_ort.so is not built)" in runner.description
    with pytest.raises(UserError, match=r"target tensorrt has no function bodies.* build it: seqexport plugins build"):
        OrtRunner(exported("preset:mamba", target="tensorrt", dtype="float32", logits="all"))


def test_a_library_of_another_architecture_gives_way_to_the_bodies(
    exported: Exported, tmp_path: Path, lone_library: Callable[[Path], Path]
) -> None:
    bundle = exported("preset:mamba", target="portable", dtype="float32", logits="all")
    foreign = tmp_path / "foreign"
    if shutil.which(CROSS):
        subprocess.run([CROSS, "-shared", "-o", foreign, "-x", "c", "/dev/null"], check=True)
    else:
        foreign.write_bytes(b"\x7fELF of another kind")
    lone_library(foreign)
    with OrtRunner(bundle, threads=1) as runner:
        assert "ops by function bodies (libseqexport_ort.so does not load here: " in runner.description
        assert "\n" not in runner.description
        generated(runner)


def test_a_damaged_library_is_refused(exported: Exported, plugins: Path, lone_library: Callable[[Path], Path]) -> None:
    bundle = exported("preset:mamba", target="portable", dtype="float32", logits="all")
    placed = lone_library(library.built(plugins)["onnxruntime"].path)
    placed.write_bytes(placed.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"damaged.*build it again: seqexport plugins build"):
        OrtRunner(bundle)
    with OrtRunner(bundle, plugins=False) as runner:
        assert "function bodies" in runner.description
