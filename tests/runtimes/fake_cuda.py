"""ONNX Runtime's CUDA provider on this machine's CPU: device memory, captured runs, and what may be refused.

A run with a graph id is made twice the first time, as ONNX Runtime does, and what was bound then is what every later
run of that id reads and writes, whatever is bound by then. A run whose outputs stay on the device is done when its
binding is waited for and no sooner; one that brings an output to the host, when it returns.
"""

from __future__ import annotations

from typing import Any

import onnxruntime as ort
import pytest

from seqexport.runtimes.ort.library import OpsLibrary

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
REFUSED = "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature"


class DeviceValue(ort.OrtValue):
    """Memory that only copies reach."""

    uploads = 0

    @classmethod
    def ortvalue_from_numpy(cls, array: Any, device: str = "cpu", index: int = 0) -> Any:
        assert device == "cuda"
        return super().ortvalue_from_numpy(array.copy(), "cpu", 0)

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: Any, kind: Any, device: str = "cpu", index: int = 0) -> Any:
        return super().ortvalue_from_shape_and_type(shape, kind, "cpu", 0)

    def numpy(self) -> Any:
        return super().numpy().copy()

    def update_inplace(self, data: Any) -> None:
        DeviceValue.uploads += 1
        super().update_inplace(data)


class Binding(ort.IOBinding):
    """Knows what is bound: memory of the device, or None for the host's."""

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        self.session = session
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}

    def bind_cpu_input(self, name: str, array: Any) -> None:
        self.inputs[name] = None
        super().bind_cpu_input(name, array)

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.inputs[name] = value
        super().bind_ortvalue_input(name, value)

    def bind_output(self, name: str, *device: Any) -> None:
        self.outputs[name] = None
        super().bind_output(name, *device)

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        self.outputs[name] = value
        super().bind_ortvalue_output(name, value)

    def synchronize_outputs(self) -> None:
        self.session.finish()

    def frozen(self) -> ort.IOBinding:
        """The same addresses, for good."""
        assert all(isinstance(value, DeviceValue) for value in (*self.inputs.values(), *self.outputs.values()))
        binding = ort.IOBinding(self.session)
        for name, value in self.inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in self.outputs.items():
            binding.bind_ortvalue_output(name, value)
        return binding


class FakeOrt:
    """Stands for the ``onnxruntime`` module. ``refuse`` captures at ``open`` or at ``run``; ``lost``: no CUDA comes."""

    def __init__(self) -> None:
        self.refuse, self.lost, self.preloads = "", False, 0
        self.sessions: list[Any] = []
        self.missing = ""
        fake = self

        class Session(ort.InferenceSession):
            def __init__(self, model: str, options: Any, *, providers: list[Any], enable_fallback: int) -> None:
                assert fake.preloads
                (name, given), last = providers
                assert (name, last, enable_fallback, given["use_tf32"]) == (CUDA, CPU, 0, "0")
                self.graphs = given.get("enable_cuda_graph") == "1"
                if self.graphs and fake.refuse == "open":
                    raise RuntimeError(REFUSED)
                super().__init__(model, options, providers=[CPU])
                self.captured: dict[str, ort.IOBinding] = {}
                self.runs: list[str | None] = []
                self.released: list[str] = []
                self.queue: list[tuple[Any, Any]] = []
                fake.sessions.append(self)

            def finish(self) -> None:
                queue, self.queue = self.queue, []
                for binding, run_options in queue:
                    super().run_with_iobinding(binding, run_options)

            def get_providers(self) -> list[str]:
                return [CPU] if fake.lost else [CUDA, CPU]

            def io_binding(self) -> Binding:
                return Binding(self)

            def run_with_iobinding(self, binding: Any, run_options: Any = None) -> None:
                graph = run_options.get_run_config_entry("gpu_graph_id") if run_options else None
                assert (graph is not None) == self.graphs
                self.runs.append(graph)
                if graph in (None, "-1"):
                    self.queue.append((binding, run_options))
                    if None in binding.outputs.values():
                        self.finish()
                    return
                if graph not in self.captured:
                    if fake.refuse == "run":
                        raise RuntimeError("an op waits for the device")
                    self.captured[graph] = binding.frozen()
                    self.queue.append((self.captured[graph], None))
                self.queue.append((self.captured[graph], None))

            def release_captured_graph(self, graph: int) -> None:
                del self.captured[str(graph)]
                self.released.append(str(graph))

        self.InferenceSession = Session

    __version__ = ort.__version__
    OrtValue = DeviceValue
    RunOptions = ort.RunOptions

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def preload_dlls(self, directory: str | None = None) -> None:
        self.preloads += 1
        if self.missing:
            print(self.missing)


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeOrt:
    from seqexport.runtimes.ort import cuda, runner, tensor

    fake = FakeOrt()
    for module in (runner, cuda, tensor):
        monkeypatch.setattr(module, "ort", fake)
    found = OpsLibrary.for_graph
    monkeypatch.setattr(OpsLibrary, "for_graph", lambda ops, device, **given: found(ops, "cpu", **given))
    cuda.preload.cache_clear()
    monkeypatch.setattr(DeviceValue, "uploads", 0)
    return fake
