"""TensorRT's runner of any module, over an engine that ONNX Runtime computes: memory, sizes, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seqexport
from seqexport.plugins.errors import UserError
from seqexport.runtimes.comparison.module_verify import verify_bundle
from seqexport.runtimes.ort.module import OrtModule
from seqexport.runtimes.trt.cuda import Cuda
from seqexport.runtimes.trt.engine import profiles_of
from seqexport.runtimes.trt.module import TrtModule
from seqexport.runtimes.trt.plan import Engine
from seqexport.runtimes.trt.profiles import GivenShapes
from seqexport.runtimes.trt.record import EngineRecord
from tests.exporter.modules import plain
from tests.runtimes.fake_gpu import FakeContext, FakeEngine, FakeRuntime, FakeTrt


class ModuleEngine(FakeEngine):
    def create_execution_context_without_device_memory(self) -> FakeContext:
        return ModuleContext(self)


class ModuleContext(FakeContext):
    """Knows the outputs' shapes, as TensorRT does once the inputs' are set."""

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = self.shapes["x"][0]
        return {"scores": (batch, 5), "h_after": (batch, 8)}[name]

    def execute_async_v3(self, stream: int) -> bool:
        self.shapes["input_ids"] = (0, 0)  # which the other engines' sessions count
        return super().execute_async_v3(stream)

    def _outputs(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        return {name: np.empty(self.get_tensor_shape(name), np.float32) for name in ("scores", "h_after")}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> seqexport.Bundle:
    folder: Path = tmp_path_factory.mktemp("trt") / "filter"
    asked: dict[str, Any] = {"inputs": plain.INPUTS, "dynamic": plain.DYNAMIC, "states": plain.STATES}
    return seqexport.export(plain.Filter().eval(), folder, **asked)


USUAL = GivenShapes()


def opened(bundle: seqexport.Bundle, given: GivenShapes = USUAL) -> tuple[TrtModule, FakeRuntime]:
    record = EngineRecord(
        format_version=1, plan="fake.plan", sha256="0", gpu="Fake GPU", compute_capability="9.0", tensorrt="8.6.0",
        seqexport="0.1.0", plugins=None, model_sha256="0", profiles=profiles_of(bundle, given), flags={},
        date="2026-01-01",
    )  # fmt: skip
    runtime = FakeRuntime()
    engine = ModuleEngine(bundle, record, runtime)
    return TrtModule(bundle, Engine(FakeTrt, engine, record), Cuda(runtime)), runtime


def test_the_profile_is_of_the_recorded_sizes(bundle: seqexport.Bundle) -> None:
    profile = profiles_of(bundle, GivenShapes())["default"]
    assert profile["x"] == ((1, 3, 1, 1), (1, 3, 6, 8), (2, 3, 8, 11))
    assert profile["h"] == ((1, 8), (1, 8), (2, 8))
    larger = profiles_of(bundle, GivenShapes(max={"x": (4, 3, 32, 32)}))["default"]
    assert larger["x"][2] == (4, 3, 32, 32) and larger["h"][2] == (4, 8)
    with pytest.raises(UserError, match="--maxShapes x:4x4x32x32: the input's shape is batchx3xheightxwidth"):
        profiles_of(bundle, GivenShapes(max={"x": (4, 4, 32, 32)}))


def test_every_recorded_call_is_verified_and_all_memory_given_back(bundle: seqexport.Bundle) -> None:
    module, runtime = opened(bundle)
    not_checked: list[str] = []
    with module:
        assert all(check.passed for check in verify_bundle(module, not_checked.append))
        assert not_checked == []
        assert module.description == "TensorRT 8.6.0, Fake GPU, function bodies, target portable"
        assert (module.peak_device_memory() or 0) > 0
    assert (runtime.used, runtime.graphs) == (0, [])


def images(batch: int, *sizes: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(sum(sizes))
    return {"x": random.standard_normal((batch, 3, *sizes)), "h": random.standard_normal((batch, 8))}


def test_calls_of_one_size_are_a_graph(bundle: seqexport.Bundle) -> None:
    small, large = images(1, 6, 8), images(2, 8, 11)
    doubled = {name: 2 * array for name, array in small.items()}
    module, runtime = opened(bundle)
    with module, OrtModule(bundle) as expected:
        for inputs, graphs, launches in (
            (small, 0, 0), (small, 1, 1), (doubled, 1, 2), (large, 0, 2), (small, 0, 2), (small, 1, 3)
        ):  # fmt: skip
            given = module(inputs)
            for name, array in expected(inputs).items():
                np.testing.assert_allclose(given[name], array, rtol=1e-5, atol=1e-6)
            assert (len(runtime.graphs), runtime.launches) == (graphs, launches)


def test_a_refused_call_leaves_no_graph_of_memory_that_it_has_moved(
    bundle: seqexport.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = images(1, 6, 8)
    module, runtime = opened(bundle)
    with module:
        answers = [module(small) for _ in range(2)]
        context = module._context
        context.set_input_shape = lambda name, shape: (
            name != "h" and ModuleContext.set_input_shape(context, name, shape)
        )
        with pytest.raises(UserError, match="refuses h of shape"):
            module(images(2, 8, 11))
        del context.set_input_shape
        assert runtime.graphs == []
        for name, array in module(small).items():
            np.testing.assert_array_equal(array, answers[0][name])


def test_without_graphs_calls_go_on_and_the_description_says_so(bundle: seqexport.Bundle) -> None:
    module, runtime = opened(bundle)
    runtime.refuse_capture = True
    with module:
        first, second = (module(images(1, 6, 8)) for _ in range(2))
        assert all(np.array_equal(first[name], second[name]) for name in first)
        assert module.description.endswith(
            "without CUDA graphs (cudaStreamEndCapture: cudaErrorStreamCaptureUnsupported)"
        )


def test_sizes_that_the_engine_lacks_are_named(bundle: seqexport.Bundle) -> None:
    fixed = {"x": (1, 3, 6, 8)}
    module, _ = opened(bundle, GivenShapes(fixed, fixed, fixed))
    not_checked: list[str] = []
    with module:
        checks = list(verify_bundle(module, not_checked.append))
        assert checks and all(check.passed for check in checks)
        assert len(not_checked) == 2
        assert not_checked[0].startswith("batch 1, height 8, width 11: input x has the shape [1, 3, 8, 11]: the engine")
        with pytest.raises(UserError, match=r"takes 6 to 6 along axis 2; build another .* --maxShapes x:1x3x9x8"):
            module({"x": np.zeros((1, 3, 9, 8)), "h": np.zeros((1, 8))})


def test_a_failing_engine_says_so(bundle: seqexport.Bundle) -> None:
    module, _ = opened(bundle)
    with module:
        module.engine.cuda_engine.fail_at = 0
        with pytest.raises(UserError, match=r"TensorRT 8\.6\.0 failed"):
            module({"x": np.zeros((1, 3, 6, 8)), "h": np.zeros((1, 8))})
