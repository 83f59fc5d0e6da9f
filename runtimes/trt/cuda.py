"""The few calls of CUDA's runtime that an engine's sessions need, through NVIDIA's ``cuda-bindings``.

Every return code is checked. Memory that there is no room for is a UserError, and leaves all else as it was.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes import units
from seqexport.runtimes.closing import Closing

Array = NDArray[Any]
NO_MEMORY = "cudaErrorMemoryAllocation"
INSTALL = "pip install cuda-bindings (12.x for CUDA 12, 13.x for CUDA 13)"


@dataclass(frozen=True)
class Gpu:
    """The device's name, and its compute capability as ``9.0``."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Memory:
    """Memory of the device."""

    address: int
    bytes: int


@dataclass(frozen=True)
class Pinned:
    """Page-locked memory of the host, which the device copies from and to without waiting."""

    address: int
    array: NDArray[np.uint8]


class CaptureFailed(Exception):
    """Work that a CUDA graph cannot hold. Nothing of it was run."""


class Cuda(Closing):
    """One device and one stream on it, in whose order everything happens.

    Args:
        runtime: the module ``cuda.bindings.runtime``, or one that works like it.

    Attributes:
        bytes, peak_bytes: of the device's memory that was taken here, now and at most.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.bytes = self.peak_bytes = 0
        self.stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)

    def _call(self, name: str, *args: Any) -> Any:
        """One call of the runtime: what it gives beside its return code."""
        code, *values = getattr(self._runtime, name)(*args)
        if code.name != "cudaSuccess":
            self._runtime.cudaGetLastError()
            raise _Failed(name, code.name)
        return values[0] if len(values) == 1 else values

    def _checked(self, name: str, *args: Any) -> Any:
        try:
            return self._call(name, *args)
        except _Failed as error:
            raise UserError(f"CUDA failed in {error.call}: {error.code}; close other programs on the GPU") from error

    @property
    def stream_handle(self) -> int:
        return int(self.stream)

    def gpu(self) -> Gpu:
        properties = self._checked("cudaGetDeviceProperties", 0)
        name = properties.name.decode() if isinstance(properties.name, bytes) else properties.name
        return Gpu(name.strip("\0"), f"{properties.major}.{properties.minor}")

    def free_bytes(self) -> int:
        free, _ = self._checked("cudaMemGetInfo")
        return int(free)

    def allocate(self, size: int) -> Memory:
        """``size`` bytes of zeros on the device.

        Raises:
            UserError: there is not so much room.
        """
        size = max(size, 1)
        try:
            memory = Memory(int(self._call("cudaMalloc", size)), size)
        except _Failed as error:
            raise self._no_room(error, size, "device memory", self.free_bytes()) from error
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        self.zero(memory)
        return memory

    def allocate_pinned(self, size: int) -> Pinned:
        size = max(size, 1)
        try:
            address = int(self._call("cudaMallocHost", size))
        except _Failed as error:
            raise self._no_room(error, size, "page-locked host memory", None) from error
        view = (ctypes.c_uint8 * size).from_address(address)
        return Pinned(address, np.ctypeslib.as_array(view))

    @staticmethod
    def _no_room(error: _Failed, size: int, what: str, free: int | None) -> UserError:
        if error.code != NO_MEMORY:
            return UserError(f"CUDA failed in {error.call}: {error.code}")
        known = "" if free is None else f", free {units.size(free)}"
        return UserError(f"{what}: wanted {units.size(size)}{known}; use a smaller batch or capacity, or free the GPU")

    def free(self, memory: Memory) -> None:
        self._checked("cudaFree", memory.address)
        self.bytes -= memory.bytes

    def free_pinned(self, memory: Pinned) -> None:
        self._checked("cudaFreeHost", memory.address)

    def zero(self, memory: Memory) -> None:
        self._checked("cudaMemsetAsync", memory.address, 0, memory.bytes, self.stream)

    def copy_in(self, device: int, host: int, size: int) -> None:
        """From the host to the device, in the stream's order."""
        self._checked("cudaMemcpyAsync", device, host, size, self._kind("HostToDevice"), self.stream)

    def copy_out(self, host: int, device: int, size: int) -> None:
        """From the device to the host, in the stream's order."""
        self._checked("cudaMemcpyAsync", host, device, size, self._kind("DeviceToHost"), self.stream)

    def copy(self, to: Memory, source: Memory) -> None:
        """From memory of the device to other of the same size, in the stream's order."""
        self._checked(
            "cudaMemcpyAsync", to.address, source.address, to.bytes, self._kind("DeviceToDevice"), self.stream
        )

    def _kind(self, way: str) -> Any:
        return getattr(self._runtime.cudaMemcpyKind, f"cudaMemcpy{way}")

    def write(self, memory: Memory, array: Array) -> None:
        """An array to the device; done when this returns."""
        array = np.ascontiguousarray(array)
        self.copy_in(memory.address, array.ctypes.data, array.nbytes)
        self.synchronize()

    def read(self, memory: Memory, array: Array) -> None:
        """The device's memory into an array; done when this returns."""
        self.copy_out(array.ctypes.data, memory.address, array.nbytes)
        self.synchronize()

    def synchronize(self) -> None:
        """Wait until all that the stream was given is done."""
        self._checked("cudaStreamSynchronize", self.stream)

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """A CUDA graph of what ``enqueue`` puts into the stream; none of it is run.

        Raises:
            CaptureFailed: it does what no graph can hold, or fails.
        """
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        try:
            with self._capturing(mode) as captured:
                enqueue()
            graph = captured[0]
            executable = self._call("cudaGraphInstantiate", graph, 0)
            self._call("cudaGraphDestroy", graph)
        except (_Failed, UserError) as error:
            raise CaptureFailed(str(error)) from error
        return executable

    @contextmanager
    def _capturing(self, mode: Any) -> Iterator[list[Any]]:
        """The stream records; it stops to do so however the block ends."""
        captured: list[Any] = []
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            yield captured
        except BaseException:
            self._runtime.cudaStreamEndCapture(self.stream)
            self._runtime.cudaGetLastError()
            raise
        captured.append(self._call("cudaStreamEndCapture", self.stream))

    def launch(self, graph: Any) -> None:
        self._checked("cudaGraphLaunch", graph, self.stream)

    def destroy(self, graph: Any) -> None:
        self._checked("cudaGraphExecDestroy", graph)

    def free_text(self) -> str:
        """The free memory, in words."""
        return units.size(self.free_bytes())

    def _close(self) -> None:
        self._checked("cudaStreamDestroy", self.stream)


class _Failed(Exception):
    def __init__(self, call: str, code: str) -> None:
        super().__init__(f"{call}: {code}")
        self.call, self.code = call, code


@functools.cache
def load_runtime() -> Any:
    """The module of CUDA's runtime calls, with a GPU behind it.

    Raises:
        UserError: the package is missing, or there is no GPU or no driver.
    """
    try:
        try:
            from cuda.bindings import runtime
        except ImportError:
            from cuda import cudart as runtime
    except ImportError as error:
        raise UserError(f"the backend 'trt' needs NVIDIA's CUDA bindings ({error}): {INSTALL}") from error
    code, count = runtime.cudaGetDeviceCount()
    if code.name != "cudaSuccess" or not count:
        raise UserError(
            f"no NVIDIA GPU that CUDA can use ({code.name}): TensorRT builds and runs engines on the GPU that they are "
            "for; check nvidia-smi, on a Jetson the user's group video"
        )
    return runtime
