"""TensorRT: a bundle's engine, its states kept on the device, one token at a time as a CUDA graph. Needs no PyTorch."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from typing import Any, ClassVar

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.trt import versions
from seqexport.runtimes.trt.cuda import Cuda, Memory, load_runtime
from seqexport.runtimes.trt.plan import PREFILL, Engine, load_engine
from seqexport.runtimes.trt.session import TrtSession
from seqexport.runtimes.trt.staging import Staging


def open_trt(bundle: Bundle) -> TrtRunner:
    """Open a bundle's engine for this GPU and TensorRT.

    Raises:
        UserError: TensorRT, a GPU, the engine or its plugin library is missing, damaged, or of another version.
    """
    trt, runtime = versions.load_tensorrt(), load_runtime()
    with ExitStack() as stack:
        cuda = stack.enter_context(Cuda(runtime))
        runner = TrtRunner(bundle, load_engine(trt, bundle, cuda), cuda)
        stack.pop_all()
    return runner


def check_interface(bundle: Bundle, engine: Engine) -> None:
    """Raises UserError: the engine is of another graph."""
    theirs = {engine.cuda_engine.get_tensor_name(index) for index in range(engine.cuda_engine.num_io_tensors)}
    ours = {spec.name for spec in (*bundle.manifest.inputs, *bundle.manifest.outputs)}
    if others := theirs ^ ours:
        raise UserError(
            f"{engine.record.plan}: its inputs and outputs are not those of the bundle ({min(others)}); build "
            f"it again with: seqexport build {bundle.path}"
        )


def described(bundle: Bundle, engine: Engine) -> str:
    """What runs a bundle: version, GPU, target, and what computes our ops."""
    record = engine.record
    ops = f"plugins of seqexport {record.plugins.version}" if record.plugins else "function bodies"
    return f"TensorRT {record.tensorrt}, {record.gpu}, {ops}, target {bundle.manifest.target}"


def create_context(engine: Engine, scratch: Memory, cuda: Cuda, profile: str) -> Any:
    """An execution context with a profile chosen, its activations in ``scratch``."""
    context = versions.create_context(engine.trt, engine.cuda_engine, scratch.address, scratch.bytes)
    if context is None or not context.set_optimization_profile_async(engine.index(profile), cuda.stream_handle):
        raise failure(engine, "cannot make an execution context")
    return context


def failure(engine: Engine, what: str) -> UserError:
    """An error that ends with what TensorRT said last."""
    _, log = versions.logger(engine.trt)
    cause = log.cause()
    log.clear()
    return UserError(f"TensorRT {engine.record.tensorrt} {what}{f': {cause}' if cause else ''}")


class TrtRunner(Runner):
    """A bundle's engine on one stream of one GPU. Its sessions take turns: use one runner from one thread.

    All execution contexts share one memory for activations, and all sessions the context of the prefill profile and
    what carries its tokens and logits.

    Args:
        engine: built from ``bundle``.
        cuda: the device that it lies on; closed with the runner.

    Raises:
        UserError: the engine is of another graph, or there is no room for its activations.
    """

    backend: ClassVar[str] = "trt"

    def __init__(self, bundle: Bundle, engine: Engine, cuda: Cuda) -> None:
        super().__init__(bundle)
        self.engine, self.cuda = engine, cuda
        check_interface(bundle, engine)
        self.batches = engine.limits("input_ids", 0, PREFILL)
        self.widths = engine.limits("input_ids", 1, PREFILL)
        grown = next((spec for spec in self.manifest.states if spec.grows), None)
        self.rooms = engine.limits(grown.past_name, grown.shape.index("max_len"), PREFILL) if grown else (0, 0)
        self.caches_in_place = engine.record.plugins is not None
        self.no_graph: str | None = None
        self._sessions: weakref.WeakSet[TrtSession] = weakref.WeakSet()
        self._prefill: Any = None
        self._staging: Staging | None = None
        self._scratch = cuda.allocate(versions.scratch_bytes(engine.cuda_engine))

    @property
    def description(self) -> str:
        decode = "decode as a CUDA graph" if self.no_graph is None else f"decode without a CUDA graph ({self.no_graph})"
        return f"{described(self.bundle, self.engine)}, {decode}"

    def session(self, batch: int = 1, capacity: int | None = None) -> TrtSession:
        if capacity is None:
            capacity = min(self.manifest.capacity or 0, self.rooms[1])
        session = TrtSession(self, batch, capacity)
        self._sessions.add(session)
        return session

    def create_context(self, profile: str) -> Any:
        """An execution context with a profile chosen, in the activations' shared memory."""
        engine, scratch = self.engine, self._scratch
        return create_context(engine, scratch, self.cuda, profile)

    @property
    def prefill_context(self) -> Any:
        if self._prefill is None:
            self._prefill = self.create_context(PREFILL)
        return self._prefill

    def staging(self, batch: int, width: int) -> Staging:
        """Room for a chunk; logits of every token make it large, so it grows with what is asked for."""
        if self._staging is None or self._staging.batch != batch or self._staging.width < width:
            if self._staging is not None:
                self._staging.close()
                self._staging = None
            whole = self.manifest.logits == "all"
            self._staging = Staging(self, batch, width if whole else self.widths[1])
        return self._staging

    def failure(self, what: str) -> UserError:
        """An error that ends with what TensorRT said last."""
        return failure(self.engine, what)

    def reset_peak_device_memory(self) -> None:
        self.cuda.peak_bytes = self.cuda.bytes

    def peak_device_memory(self) -> int | None:
        return self.engine.bytes + self.cuda.peak_bytes

    def _close(self) -> None:
        for session in list(self._sessions):
            session.close()
        if self._staging is not None:
            self._staging.close()
        self._prefill = self._staging = None
        self.cuda.free(self._scratch)
        del self.engine
        self.cuda.close()
