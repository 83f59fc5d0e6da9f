"""TensorRT: the engine of any module, called with arrays. Needs no PyTorch."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, ClassVar

import numpy as np

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.guard import Guard
from seqexport.runtimes.module import Array, Arrays, ModuleRunner, OtherSizes
from seqexport.runtimes.storage import from_float32, readable, storage
from seqexport.runtimes.trt import versions
from seqexport.runtimes.trt.cuda import Cuda, Memory, load_runtime
from seqexport.runtimes.trt.plan import Engine, load_engine
from seqexport.runtimes.trt.profiles import DEFAULT
from seqexport.runtimes.trt.runner import check_interface, create_context, described, failure


def open_trt_module(bundle: Bundle) -> TrtModule:
    """Open the engine of any module's bundle for this GPU and TensorRT.

    Raises:
        UserError: TensorRT, a GPU, the engine or its plugin library is missing, damaged, or of another version.
    """
    trt, runtime = versions.load_tensorrt(), load_runtime()
    with ExitStack() as stack:
        cuda = stack.enter_context(Cuda(runtime))
        module = TrtModule(bundle, load_engine(trt, bundle, cuda), cuda)
        stack.pop_all()
    return module


class TrtModule(ModuleRunner):
    """A bundle's engine on one stream of one GPU; memory for inputs and outputs grows with what calls need.

    Args:
        engine: built from ``bundle``.
        cuda: the device that it lies on; closed with this.

    Raises:
        UserError: the engine is of another graph, or there is no room for its activations.
    """

    backend: ClassVar[str] = "trt"

    def __init__(self, bundle: Bundle, engine: Engine, cuda: Cuda) -> None:
        super().__init__(bundle)
        self.engine, self.cuda = engine, cuda
        check_interface(bundle, engine)
        self._scratch = cuda.allocate(versions.scratch_bytes(engine.cuda_engine))
        self._held: dict[str, Memory] = {}
        self._context: Any = None
        self._guard = Guard("model")

    @property
    def description(self) -> str:
        return described(self.bundle, self.engine)

    def _run(self, inputs: Arrays) -> Arrays:
        with self._guard:
            return self._called(inputs)

    def _called(self, inputs: Arrays) -> Arrays:
        if self._context is None:
            self._context = create_context(self.engine, self._scratch, self.cuda, DEFAULT)
        for name, array in inputs.items():
            self._give(name, array)
        shapes = {spec.name: self._shape_of(spec.name) for spec in self.manifest.outputs}
        for name, shape in shapes.items():
            size = int(np.prod(shape)) * storage(self.engine.dtype(name)).itemsize
            self._bind(name, size)
        if not self._context.execute_async_v3(self.cuda.stream_handle):
            raise failure(self.engine, "failed")
        return {name: self._taken(name, shape) for name, shape in shapes.items()}

    def _give(self, name: str, array: Array) -> None:
        self._check_limits(name, array.shape)
        dtype = self.engine.dtype(name)
        stored = from_float32(array, dtype) if array.dtype.kind == "f" else array.astype(dtype)
        if not self._context.set_input_shape(name, array.shape):
            raise failure(self.engine, f"refuses {name} of shape {list(array.shape)}")
        self.cuda.write(self._bind(name, stored.nbytes), stored)

    def _check_limits(self, name: str, shape: tuple[int, ...]) -> None:
        for index, size in enumerate(shape):
            low, high = self.engine.limits(name, index, DEFAULT)
            if not low <= size <= high:
                option = f"{'--minShapes' if size < low else '--maxShapes'} {name}:{'x'.join(map(str, shape))}"
                raise OtherSizes(
                    f"input {name} has the shape {list(shape)}: the engine takes {low} to {high} along axis {index}; "
                    f"build another with: seqexport build {self.bundle.path} {option}"
                )

    def _shape_of(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise UserError(f"output {name}: its size depends on values, which engines are not run for")
        return shape

    def _bind(self, name: str, size: int) -> Memory:
        """Memory of at least ``size`` bytes for an input or output, at an address that the context knows."""
        held = self._held.get(name)
        if held is None or held.bytes < size:
            if held is not None:
                self.cuda.free(self._held.pop(name))
            held = self._held[name] = self.cuda.allocate(size)
        if not self._context.set_tensor_address(name, held.address):
            raise failure(self.engine, f"refuses the memory of {name}")
        return held

    def _taken(self, name: str, shape: tuple[int, ...]) -> Array:
        dtype, spec = self.engine.dtype(name), next(each for each in self.manifest.outputs if each.name == name)
        stored = np.empty(shape, storage(dtype))
        self.cuda.read(self._held[name], stored)
        array = readable(stored, dtype)
        return array if array.dtype.kind == "f" else array.astype(spec.dtype)

    def reset_peak_device_memory(self) -> None:
        self.cuda.peak_bytes = self.cuda.bytes

    def peak_device_memory(self) -> int | None:
        """Bytes of the device's memory at most in use since the reset, the engine included."""
        return self.engine.bytes + self.cuda.peak_bytes

    def _close(self) -> None:
        self._context = None
        for memory in self._held.values():
            self.cuda.free(memory)
        self.cuda.free(self._scratch)
        del self.engine
        self.cuda.close()
