"""A bundle's engine on a GPU: what the runners of language models and of any module have in common."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.trt import versions
from seqexport.runtimes.trt.cuda import Cuda, load_runtime
from seqexport.runtimes.trt.plan import Engine, load_engine

Opened = TypeVar("Opened")


def opened(kind: Callable[[Bundle, Engine, Cuda], Opened], bundle: Bundle) -> Opened:
    """Open a bundle's engine for this GPU and TensorRT.

    Args:
        kind: the runner's class.

    Raises:
        UserError: TensorRT, a GPU, the engine or its plugin library is missing, damaged, or of another version.
    """
    trt, runtime = versions.load_tensorrt(), load_runtime()
    with ExitStack() as stack:
        cuda = stack.enter_context(Cuda(runtime))
        runner = kind(bundle, load_engine(trt, bundle, cuda), cuda)
        stack.pop_all()
    return runner


class OnGpu:
    """An engine on one stream of one GPU; all execution contexts share one memory for activations.

    Args:
        engine: built from ``bundle``.
        cuda: the device that it lies on; closed with this.

    Raises:
        UserError: the engine is of another graph, or there is no room for its activations.
    """

    def __init__(self, bundle: Bundle, engine: Engine, cuda: Cuda) -> None:
        _check_interface(bundle, engine)
        self.bundle, self.engine, self.cuda = bundle, engine, cuda
        self._scratch = cuda.allocate(versions.scratch_bytes(engine.cuda_engine))

    @property
    def engine_description(self) -> str:
        """What runs the bundle: version, GPU, what computes our ops, target."""
        record = self.engine.record
        ops = f"plugins of seqexport {record.plugins.version}" if record.plugins else "function bodies"
        return f"TensorRT {record.tensorrt}, {record.gpu}, {ops}, target {self.bundle.manifest.target}"

    def create_context(self, profile: str) -> Any:
        """An execution context with a profile chosen, in the activations' shared memory."""
        engine, scratch = self.engine, self._scratch
        context = versions.create_context(engine.trt, engine.cuda_engine, scratch.address, scratch.bytes)
        if context is None or not context.set_optimization_profile_async(
            engine.index(profile), self.cuda.stream_handle
        ):
            raise self.failure("cannot make an execution context")
        return context

    def failure(self, what: str) -> UserError:
        """An error that ends with what TensorRT said last."""
        _, log = versions.logger(self.engine.trt)
        cause = log.cause()
        log.clear()
        return UserError(f"TensorRT {self.engine.record.tensorrt} {what}{f': {cause}' if cause else ''}")

    def reset_peak_device_memory(self) -> None:
        self.cuda.peak_bytes = self.cuda.bytes

    def peak_device_memory(self) -> int | None:
        """Bytes of the device's memory at most in use since the reset, the engine included."""
        return self.engine.bytes + self.cuda.peak_bytes

    def _close(self) -> None:
        self.cuda.free(self._scratch)
        del self.engine
        self.cuda.close()


def _check_interface(bundle: Bundle, engine: Engine) -> None:
    """Raises UserError: the engine is of another graph."""
    theirs = {engine.cuda_engine.get_tensor_name(index) for index in range(engine.cuda_engine.num_io_tensors)}
    ours = {spec.name for spec in (*bundle.manifest.inputs, *bundle.manifest.outputs)}
    if others := theirs ^ ours:
        raise UserError(
            f"{engine.record.plan}: its inputs and outputs are not those of the bundle ({min(others)}); build "
            f"it again with: seqexport build {bundle.path}"
        )
