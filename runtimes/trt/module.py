"""TensorRT: the engine of any module, called with arrays. Needs no PyTorch."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.guard import Guard
from seqexport.runtimes.module import Array, Arrays, ModuleRunner, OtherSizes
from seqexport.runtimes.storage import from_float32, readable, storage
from seqexport.runtimes.trt.cuda import CaptureFailed, Cuda, Memory
from seqexport.runtimes.trt.on_gpu import OnGpu, opened
from seqexport.runtimes.trt.plan import Engine
from seqexport.runtimes.trt.profiles import DEFAULT


def open_trt_module(bundle: Bundle) -> TrtModule:
    """Raises UserError: as ``opened``."""
    return opened(TrtModule, bundle)


class TrtModule(OnGpu, ModuleRunner):
    """A bundle's engine on one stream of one GPU; memory for inputs and outputs grows with what calls need.

    A call of the same sizes as the one before it is a CUDA graph.

    Args:
        engine: built from ``bundle``.
        cuda: the device that it lies on; closed with this.

    Attributes:
        no_graph: why calls are not CUDA graphs, once one could not be.

    Raises:
        UserError: the engine is of another graph, or there is no room for its activations.
    """

    backend: ClassVar[str] = "trt"

    def __init__(self, bundle: Bundle, engine: Engine, cuda: Cuda) -> None:
        ModuleRunner.__init__(self, bundle)
        OnGpu.__init__(self, bundle, engine, cuda)
        self._held: dict[str, Memory] = {}
        self._context: Any = None
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._graph: Any = None
        self.no_graph: str | None = None
        self._guard = Guard("model")

    @property
    def description(self) -> str:
        graphs = "" if self.no_graph is None else f", without CUDA graphs ({self.no_graph})"
        return f"{self.engine_description}{graphs}"

    def _run(self, inputs: Arrays) -> Arrays:
        with self._guard:
            return self._called(inputs)

    def _called(self, inputs: Arrays) -> Arrays:
        if self._context is None:
            self._context = self.create_context(DEFAULT)
        sizes = {name: array.shape for name, array in inputs.items()}
        if sizes != self._sizes:
            self._forget_graph()
        for name, array in inputs.items():
            self._give(name, array)
        shapes = {spec.name: self._shape_of(spec.name) for spec in self.manifest.outputs}
        for name, shape in shapes.items():
            size = int(np.prod(shape)) * storage(self.engine.dtype(name)).itemsize
            self._bind(name, size)
        self._execute(warm=sizes == self._sizes)
        self._sizes = sizes
        return {name: self._taken(name, shape) for name, shape in shapes.items()}

    def _execute(self, *, warm: bool) -> None:
        """A graph captures what a call of the same sizes has warmed up."""
        if warm and self._graph is None and self.no_graph is None:
            try:
                self._graph = self.cuda.capture(self._enqueue)
            except CaptureFailed as error:
                self.no_graph = str(error)
        if self._graph is None:
            self._enqueue()
        else:
            self.cuda.launch(self._graph)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self.cuda.stream_handle):
            raise self.failure("failed")

    def _forget_graph(self) -> None:
        graph, self._graph, self._sizes = self._graph, None, {}
        if graph is not None:
            self.cuda.destroy(graph)

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
        self._forget_graph()
        self._context = None
        for memory in self._held.values():
            self.cuda.free(memory)
        super()._close()
