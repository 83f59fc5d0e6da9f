"""A bundle's engine is opened where it is for this machine, and else says how to build one; on a fake GPU."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.runtimes.backends import open_runner
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.comparison.reference import read_reference
from seqexport.runtimes.comparison.verify import verify
from seqexport.runtimes.trt import versions
from seqexport.runtimes.trt.profiles import GivenShapes
from seqexport.runtimes.trt.record import write_engine
from tests.conftest import Exported
from tests.runtimes.fake_gpu import FakeEngine, FakeRuntime, FakeTrt, record_of
from tests.runtimes.test_trt import bundle_named


@dataclass
class Machine:
    """One with TensorRT and a GPU: the engine of a bundle, and the version of the plugin library."""

    runtime: FakeRuntime
    engine: FakeEngine | None
    plugins: str = "0.1.0"


@pytest.fixture
def machine(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> tuple[Machine, Bundle]:
    bundle = bundle_named(exported, "mamba")
    runtime, record = FakeRuntime(), record_of(bundle, GivenShapes(), plugins=True)
    here = Machine(runtime, FakeEngine(bundle, record, runtime))

    class Trt(FakeTrt):
        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.engine_host_code_allowed = False

            def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
                assert plan == b"plan"
                return here.engine

    def built(trt: Any) -> library.Built:
        return library.Built("tensorrt", Path("lib.so"), "0", here.plugins, {"tensorrt": "8.6.0"})

    monkeypatch.setattr(versions, "load_tensorrt", lambda: Trt)
    monkeypatch.setattr(versions, "load_plugins", built)
    monkeypatch.setattr("seqexport.runtimes.trt.on_gpu.load_runtime", lambda: runtime)
    return here, bundle


def with_engine(bundle: Bundle, folder: Path, **changes: Any) -> Bundle:
    """A copy of a bundle that has an engine."""
    copy = open_bundle(shutil.copytree(bundle.path, folder / "bundle"))
    sha256 = hashlib.sha256(b"plan").hexdigest()
    record = msgspec.structs.replace(record_of(copy, GivenShapes(), plugins=True), sha256=sha256, **changes)
    write_engine(copy.path / "engines", memoryview(b"plan"), record)
    return copy


def test_a_backend_opens_the_engine_that_the_bundle_has(machine: tuple[Machine, Bundle], tmp_path: Path) -> None:
    here, bundle = machine
    copy = with_engine(bundle, tmp_path)
    with open_runner("trt", copy) as runner:
        assert all(check.passed for check in verify(runner, read_reference(copy)))
        assert runner.description.startswith("TensorRT 8.6.0, Fake GPU, plugins of seqexport 0.1.0")
    assert here.runtime.device == {}


def test_what_cannot_be_opened_says_how_to_build_it(machine: tuple[Machine, Bundle], tmp_path: Path) -> None:
    here, bundle = machine

    def refusal(opened: Bundle) -> str:
        with pytest.raises(UserError) as refused:
            open_runner("trt", opened)
        assert (here.runtime.device, here.runtime.pinned) == ({}, {})
        assert str(refused.value).endswith(f"seqexport build {opened.path}")
        return str(refused.value)

    assert "has no engine for Fake GPU, TensorRT 8.6.0" in refusal(bundle)
    copy = with_engine(bundle, tmp_path)
    here.plugins = "0.2.0"
    assert "built with the plugins of seqexport 0.1.0, and these are of 0.2.0" in refusal(copy)
    here.plugins, here.engine = "0.1.0", None
    assert "TensorRT 8.6.0 cannot load fake-gpu-trt8.6.0.plan" in refusal(copy)


def test_an_engine_of_another_graph_is_refused(
    machine: tuple[Machine, Bundle], exported: Exported, tmp_path: Path
) -> None:
    here, bundle = machine
    other = bundle_named(exported, "llama")
    here.engine = FakeEngine(other, record_of(other, GivenShapes(), plugins=True), here.runtime)
    with pytest.raises(UserError, match=r"its inputs and outputs are not those of the bundle \(past"):
        open_runner("trt", with_engine(bundle, tmp_path))
