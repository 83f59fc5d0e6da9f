"""TensorRT's and CUDA's calls on this machine's memory: an engine that ONNX Runtime computes.

Addresses are real ones, of checked allocations that begin as garbage. What a stream is given runs as late as a GPU may
run it: when the host waits for that stream, with what its memory holds by then. An engine writes an output before it
has read its inputs, but for the caches that its plugins update in place. So the sessions' own work shows: which memory
is bound, what is copied when, what is waited for, how prompts are split.
"""

# ruff: noqa: N802, N815 -- CUDA's own names

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.manifest import TensorSpec
from seqexport.runtimes.trt.cuda import Cuda
from seqexport.runtimes.trt.plan import Engine
from seqexport.runtimes.trt.profiles import GivenShapes, bundle_profiles
from seqexport.runtimes.trt.record import EngineRecord, PluginsUsed
from seqexport.runtimes.trt.runner import TrtRunner

TRT_NAMES = {"float32": "FLOAT", "float16": "HALF", "int32": "INT32", "int64": "INT32"}
"""As TensorRT 8 has it: token ids become int32."""


class Code(Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorStreamCaptureUnsupported = 900


OK = Code.cudaSuccess


Work = Callable[[], None]


class FakeRuntime:
    """``cuda.bindings.runtime`` over host memory. ``room`` is the device's size in bytes."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, room: int = 1 << 30) -> None:
        self.room, self.refuse_capture = room, False
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Work]] = {}
        self.graphs: list[list[Work]] = []
        self.launches = 0
        self.recording: list[Work] | None = None
        self.pageable = False
        self.copied_on_device = 0

    @property
    def used(self) -> int:
        return sum(ctypes.sizeof(buffer) for buffer in self.device.values())

    def submit(self, stream: int, work: Work) -> None:
        self._check_waited()
        (self.streams[stream] if self.recording is None else self.recording).append(work)

    def finish(self, stream: int) -> None:
        """Run what a stream was given."""
        assert self.recording is None, "a capturing thread may not wait"
        queue, self.streams[stream] = self.streams[stream], []
        for work in queue:
            work()

    def _check_waited(self) -> None:
        """A copy from or to memory that is not page-locked, which nobody keeps for it, is waited for at once."""
        if self.pageable:
            self.streams = {stream: [] for stream in self.streams}
            pytest.fail("a copy of memory that is not page-locked was not waited for")

    def check(self, address: int, size: int) -> None:
        """A range of device memory lies inside one live allocation."""
        assert _inside(self.device, address, size), f"{size} bytes at {address:#x} are no device memory"

    def _take(self, size: int, held: dict[int, Any]) -> tuple[Code, int]:
        assert self.recording is None, "a capturing thread may not allocate"
        self._check_waited()
        buffer = (ctypes.c_uint8 * size)()
        ctypes.memset(buffer, 0xFF, size)
        held[ctypes.addressof(buffer)] = buffer
        return OK, ctypes.addressof(buffer)

    def cudaMalloc(self, size: int) -> tuple[Code, int | None]:
        if self.used + size > self.room:
            return Code.cudaErrorMemoryAllocation, None
        return self._take(size, self.device)

    def cudaFree(self, address: int) -> tuple[Code]:
        """Waits for the device, as CUDA's does."""
        self._check_waited()
        for stream in self.streams:
            self.finish(stream)
        del self.device[address]
        return (OK,)

    def cudaMallocHost(self, size: int) -> tuple[Code, int]:
        return self._take(size, self.pinned)

    def cudaFreeHost(self, address: int) -> tuple[Code]:
        del self.pinned[address]
        return (OK,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Code, Any]:
        return OK, SimpleNamespace(name=b"Fake GPU\0\0", major=9, minor=0)

    def cudaMemGetInfo(self) -> tuple[Code, int, int]:
        return OK, self.room - self.used, self.room

    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> tuple[Code]:
        def work() -> None:
            self.check(address, size)
            ctypes.memset(address, value, size)

        self.check(address, size)
        self.submit(stream, work)
        return (OK,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> tuple[Code]:
        if kind == 3:
            self.check(to, size)
            self.check(source, size)
            self.copied_on_device += 1
            self.submit(stream, lambda: ctypes.memmove(to, source, size))
            return (OK,)
        device, host = (to, source) if kind == 1 else (source, to)
        pinned = _inside(self.pinned, host, size)

        def work() -> None:
            self.check(device, size)
            assert not pinned or _inside(self.pinned, host, size), "page-locked memory was freed before its copy ran"
            ctypes.memmove(to, source, size)

        self.check(device, size)
        self.submit(stream, work)
        self.pageable = not pinned
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Code, int]:
        stream = len(self.streams) + 7
        self.streams[stream] = []
        return OK, stream

    def cudaStreamSynchronize(self, stream: int) -> tuple[Code]:
        self.pageable = False
        self.finish(stream)
        return (OK,)

    def cudaStreamDestroy(self, stream: int) -> tuple[Code]:
        self._check_waited()
        self.finish(stream)
        del self.streams[stream]
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Code]:
        self.recording = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Code, Any]:
        recorded, self.recording = self.recording, None
        return (Code.cudaErrorStreamCaptureUnsupported, None) if self.refuse_capture else (OK, recorded)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Code, Any]:
        self.graphs.append(graph)
        return OK, graph

    def cudaGraphDestroy(self, graph: Any) -> tuple[Code]:
        return (OK,)

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Code]:
        self.graphs.remove(graph)
        return (OK,)

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[Code]:
        self.launches += 1
        for work in graph:
            self.submit(stream, work)
        return (OK,)

    def cudaGetLastError(self) -> tuple[Code]:
        return (OK,)


def _inside(held: Mapping[int, Any], address: int, size: int) -> bool:
    return any(start <= address and address + size <= start + ctypes.sizeof(b) for start, b in held.items())


class FakeTrt:
    """What the runner asks of the ``tensorrt`` package."""

    __version__ = "8.6.0"

    class ILogger:
        ERROR, INTERNAL_ERROR = 1, 0


class FakeEngine:
    """``ICudaEngine`` over ONNX Runtime. ``fail_at``: the enqueue, counted from 0, that does not work."""

    device_memory_size = 4096

    def __init__(self, bundle: Bundle, record: EngineRecord, runtime: FakeRuntime) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.ort = ort.InferenceSession(str(bundle.model), options, providers=["CPUExecutionProvider"])
        self.manifest, self.runtime = bundle.manifest, runtime
        self.specs: dict[str, TensorSpec] = {s.name: s for s in (*self.manifest.inputs, *self.manifest.outputs)}
        self.profiles = list(record.profiles.values())
        grown = {spec.present_name: spec.past_name for spec in self.manifest.states if spec.grows}
        self.in_place: dict[str, str] = grown if record.plugins else {}
        self.enqueued, self.fail_at = 0, -1
        self.widths: list[int] = []

    @property
    def num_io_tensors(self) -> int:
        return len(self.specs)

    def get_tensor_name(self, index: int) -> str:
        return list(self.specs)[index]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=TRT_NAMES[self.specs[name].dtype])

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self.profiles[profile][name]

    def create_execution_context_without_device_memory(self) -> FakeContext:
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.profile = engine, -1
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.device_memory = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        low, _, high = self.engine.profiles[self.profile][name]
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        engine = self.engine
        engine.runtime.check(self.device_memory, engine.device_memory_size)
        engine.enqueued += 1
        if engine.enqueued - 1 == engine.fail_at:
            return False
        engine.widths.append(self.shapes["input_ids"][1])
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        engine.runtime.submit(stream, lambda: self._compute(shapes, addresses))
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        engine = self.engine
        for name, array in self._outputs(shapes).items():
            engine.runtime.check(addresses[name], array.nbytes)
            past = engine.in_place.get(name)
            if past is None or addresses[past] != addresses[name]:
                ctypes.memset(addresses[name], 0xFF, array.nbytes)
        feeds = {}
        for spec in engine.manifest.inputs:
            array = np.empty(shapes[spec.name], "int32" if spec.dtype == "int64" else spec.dtype)
            engine.runtime.check(addresses[spec.name], array.nbytes)
            ctypes.memmove(array.ctypes.data, addresses[spec.name], array.nbytes)
            feeds[spec.name] = array.astype(spec.dtype)
        names = [spec.name for spec in engine.manifest.outputs]
        for name, array in zip(names, engine.ort.run(names, feeds), strict=True):
            ctypes.memmove(addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)

    def _outputs(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        batch, length = shapes["input_ids"]
        manifest = self.engine.manifest
        past = {spec.present_name: shapes[spec.past_name] for spec in manifest.states}
        logits = (batch, length if manifest.logits == "all" else 1, manifest.vocab_size)
        return {spec.name: np.empty(past.get(spec.name, logits), spec.dtype) for spec in manifest.outputs}


def record_of(bundle: Bundle, shapes: GivenShapes, *, plugins: bool) -> EngineRecord:
    return EngineRecord(
        format_version=1,
        plan="fake-gpu-trt8.6.0.plan",
        sha256="0",
        gpu="Fake GPU",
        compute_capability="9.0",
        tensorrt="8.6.0",
        seqexport="0.1.0",
        plugins=PluginsUsed("0", "0.1.0") if plugins else None,
        model_sha256=bundle.manifest.files["model.onnx"],
        profiles=bundle_profiles(bundle.manifest, shapes),
        flags={},
        date="2026-01-01",
    )


def open_fake(
    bundle: Bundle, *, longest: int = 5, rows: int = 4, plugins: bool = True, shortest: int = 1, room: int = 1 << 30
) -> tuple[TrtRunner, FakeEngine, FakeRuntime]:
    """A runner over an engine that takes up to ``rows`` rows of ``shortest`` to ``longest`` tokens."""
    shapes = GivenShapes(min={"input_ids": (1, shortest)}, max={"input_ids": (rows, longest)})
    record, runtime = record_of(bundle, shapes, plugins=plugins), FakeRuntime(room)
    engine = FakeEngine(bundle, record, runtime)
    return TrtRunner(bundle, Engine(FakeTrt, engine, record), Cuda(runtime)), engine, runtime
