"""TensorRT: the engine of any module, called with arrays. Needs no PyTorch."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.guard import Guard
from seqexport.runtimes.module import Array, Arrays, ModuleRunner, OtherSizes
from seqexport.runtimes.storage import from_float32, readable, storage
from seqexport.runtimes.trt.cuda import Cuda, Memory
from seqexport.runtimes.trt.on_gpu import OnGpu, opened
from seqexport.runtimes.trt.plan import Engine
from seqexport.runtimes.trt.profiles import DEFAULT


def open_trt_module(bundle: Bundle) -> TrtModule:
    """Raises UserError: as ``opened``."""
    return opened(TrtModule, bundle)


class TrtModule(OnGpu, ModuleRunner):
    """A bundle's engine on one stream of one GPU; memory for inputs and outputs grows with what calls need.

    Args:
        engine: built from ``bundle``.
        cuda: the device that it lies on; closed with this.

    Raises:
        UserError: the engine is of another graph, or there is no room for its activations.
    """

    backend: ClassVar[str] = "trt"

    def __init__(self, bundle: Bundle, engine: Engine, cuda: Cuda) -> None:
        ModuleRunner.__init__(self, bundle)
        OnGpu.__init__(self, bundle, engine, cuda)
        self._held: dict[str, Memory] = {}
        self._context: Any = None
        self._guard = Guard("model")

    @property
    def description(self) -> str:
        return self.engine_description

    def _run(self, inputs: Arrays) -> Arrays:
        with self._guard:
            return self._called(inputs)

    def _called(self, inputs: Arrays) -> Arrays:
        if self._context is None:
            self._context = self.create_context(DEFAULT)
        for name, array in inputs.items():
            self._give(name, array)
        shapes = {spec.name: self._shape_of(spec.name) for spec in self.manifest.outputs}
        for name, shape in shapes.items():
            size = int(np.prod(shape)) * storage(self.engine.dtype(name)).itemsize
            self._bind(name, size)
        if not self._context.execute_async_v3(self.cuda.stream_handle):
            raise self.failure("failed")
        return {name: self._taken(name, shape) for name, shape in shapes.items()}

    def _give(self, name: str, array: Array) -> None:
        self._check_limits(name, array.shape)
        dtype = self.engine.dtype(name)
        stored = from_float32(array, dtype) if array.dtype.kind == "f" else array.astype(dtype)
        if not self._context.set_input_shape(name, array.shape):
            raise self.failure(f"refuses {name} of shape {list(array.shape)}")
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
            raise self.failure(f"refuses the memory of {name}")
        return held

    def _taken(self, name: str, shape: tuple[int, ...]) -> Array:
        dtype, spec = self.engine.dtype(name), next(each for each in self.manifest.outputs if each.name == name)
        stored = np.empty(shape, storage(dtype))
        self.cuda.read(self._held[name], stored)
        array = readable(stored, dtype)
        return array if array.dtype.kind == "f" else array.astype(spec.dtype)

    def _close(self) -> None:
        self._context = None
        for memory in self._held.values():
            self.cuda.free(memory)
        super()._close()
