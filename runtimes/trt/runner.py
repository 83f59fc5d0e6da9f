"""TensorRT: a bundle's engine, its states kept on the device, one token at a time as a CUDA graph. Needs no PyTorch."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Floats, Lengths, Runner, Session, States, Tokens
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.chunks import Chunk, merge, split
from seqexport.runtimes.contract import StateSpec
from seqexport.runtimes.storage import from_float32, storage, to_float32
from seqexport.runtimes.trt import versions
from seqexport.runtimes.trt.cuda import CaptureFailed, Cuda, Memory, load_runtime
from seqexport.runtimes.trt.record import SERIALIZED_PLUGINS, EngineRecord, Platform, PluginsUsed, find_engine
from seqexport.runtimes.trt.staging import Staging

PREFILL, DECODE = "prefill", "decode"


@dataclass(frozen=True)
class Engine:
    """A plan in memory.

    Attributes:
        trt: the ``tensorrt`` package.
        cuda_engine: its ``ICudaEngine``.
        record: what it was built for.
        bytes: device memory that it took.
    """

    trt: Any
    cuda_engine: Any
    record: EngineRecord
    bytes: int = 0

    def limits(self, name: str, axis: int, profile: str) -> tuple[int, int]:
        """The smallest and the largest size that an input's axis may have in a profile."""
        low, _, high = self.cuda_engine.get_tensor_profile_shape(name, self.index(profile))
        return int(low[axis]), int(high[axis])

    def index(self, profile: str) -> int:
        return list(self.record.profiles).index(profile)

    def dtype(self, name: str) -> str:
        return versions.dtype_name(self.cuda_engine.get_tensor_dtype(name))


def open_trt(bundle: Bundle) -> TrtRunner:
    """Open a bundle's engine for this GPU and TensorRT.

    Raises:
        UserError: TensorRT, a GPU, the engine or its plugin library is missing, damaged, or of another version.
    """
    trt, runtime = versions.load_tensorrt(), load_runtime()
    with ExitStack() as stack:
        cuda = stack.enter_context(Cuda(runtime))
        gpu = cuda.gpu()
        here = Platform(gpu.name, gpu.compute_capability, versions.version(trt))
        plan, record = find_engine(bundle, here)
        if record.plugins is not None and SERIALIZED_PLUGINS not in record.flags:
            _load_plugins(trt, bundle, record.plugins)
        runner = TrtRunner(bundle, _deserialized(trt, plan, record, cuda, bundle), cuda)
        stack.pop_all()
    return runner


def _load_plugins(trt: Any, bundle: Bundle, used: PluginsUsed) -> None:
    built = versions.load_plugins(trt)
    if built.seqexport != used.version:
        raise UserError(
            f"{bundle.path}: its engine was built with the plugins of seqexport {used.version}, and these are of "
            f"{built.seqexport}; build it again with: seqexport build {bundle.path}"
        )


def _deserialized(trt: Any, plan: bytes, record: EngineRecord, cuda: Cuda, bundle: Bundle) -> Engine:
    logger, log = versions.logger(trt)
    log.clear()
    runtime, before = trt.Runtime(logger), cuda.free_bytes()
    with suppress(AttributeError):
        runtime.engine_host_code_allowed = True  # what a version-compatible plan carries
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise UserError(
            f"TensorRT {record.tensorrt} cannot load {record.plan} ({log.cause()}); "
            f"build it again with: seqexport build {bundle.path}"
        )
    return Engine(trt, engine, record, max(0, before - cuda.free_bytes()))


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
        self._check_interface()
        self.batches = engine.limits("input_ids", 0, PREFILL)
        self.widths = engine.limits("input_ids", 1, PREFILL)
        grown = next((spec for spec in self.contract.states if spec.grows), None)
        self.rooms = engine.limits(grown.past_name, grown.shape.index("max_len"), PREFILL) if grown else (0, 0)
        self.caches_in_place = engine.record.plugins is not None
        self.no_graph: str | None = None
        self._sessions: weakref.WeakSet[TrtSession] = weakref.WeakSet()
        self._closed = False
        self._prefill: Any = None
        self._staging: Staging | None = None
        self._scratch = cuda.allocate(versions.scratch_bytes(engine.cuda_engine))

    def _check_interface(self) -> None:
        engine = self.engine.cuda_engine
        theirs = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        ours = {spec.name for spec in (*self.contract.inputs, *self.contract.outputs)}
        if others := theirs ^ ours:
            raise UserError(
                f"{self.engine.record.plan}: its inputs and outputs are not those of the bundle ({min(others)}); build "
                f"it again with: seqexport build {self.bundle.path}"
            )

    @property
    def description(self) -> str:
        record = self.engine.record
        ops = f"plugins of seqexport {record.plugins.version}" if record.plugins else "function bodies"
        decode = "decode as a CUDA graph" if self.no_graph is None else f"decode without a CUDA graph ({self.no_graph})"
        return f"TensorRT {record.tensorrt}, {record.gpu}, {ops}, target {self.contract.target}, {decode}"

    def session(self, batch: int = 1, capacity: int | None = None) -> TrtSession:
        if capacity is None:
            capacity = min(self.contract.capacity or 0, self.rooms[1])
        session = TrtSession(self, batch, capacity)
        self._sessions.add(session)
        return session

    def create_context(self, profile: str) -> Any:
        """An execution context with a profile chosen, in the activations' shared memory."""
        engine, scratch = self.engine, self._scratch
        context = versions.create_context(engine.trt, engine.cuda_engine, scratch.address, scratch.bytes)
        if context is None or not context.set_optimization_profile_async(
            engine.index(profile), self.cuda.stream_handle
        ):
            raise self.failure("cannot make an execution context")
        return context

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
            whole = self.contract.logits == "all"
            self._staging = Staging(self, batch, width if whole else self.widths[1])
        return self._staging

    def failure(self, what: str) -> UserError:
        """An error that ends with what TensorRT said last."""
        _, log = versions.logger(self.engine.trt)
        cause = log.cause()
        log.clear()
        return UserError(f"TensorRT {self.engine.record.tensorrt} {what}{f': {cause}' if cause else ''}")

    def reset_peak_device_memory(self) -> None:
        self.cuda.peak_bytes = self.cuda.bytes

    def peak_device_memory(self) -> int | None:
        return self.engine.bytes + self.cuda.peak_bytes

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for session in list(self._sessions):
            session.close()
        if self._staging is not None:
            self._staging.close()
        self._prefill = self._staging = None
        self.cuda.free(self._scratch)
        del self.engine
        self.cuda.close()


@dataclass
class Decoder:
    """What a session steps with: its own context, shapes set, and a CUDA graph for each of the states' two places."""

    context: Any
    staging: Staging
    graphs: dict[int, Any] = field(default_factory=dict)
    warm: bool = False


class TrtSession(Session):
    """States live on the device.

    A state of fixed size has two places and swaps them at each call. A key/value cache has one, which the plugins
    read and write, or two where function bodies were built. One token a row runs as a CUDA graph, of which there are
    two, captured after a first step without.
    """

    def __init__(self, runner: TrtRunner, batch: int, capacity: int) -> None:
        super().__init__(runner.contract, batch, capacity)
        self.runner, self.cuda = runner, runner.cuda
        self._check_limits()
        self._room = max(capacity, runner.rooms[0])
        self._place = 0
        self._decoder: Decoder | None = None
        self._resources = ExitStack()
        self._closing = weakref.finalize(self, self._resources.close)
        self._closing.atexit = False
        try:
            self._states = {spec.past_name: self._allocate(spec) for spec in self.contract.states}
        except UserError:
            self.close()
            raise

    def _check_limits(self) -> None:
        (low, high), rooms = self.runner.batches, self.runner.rooms
        option = "--minShapes" if self.batch < low else "--maxShapes"
        rebuild = f"build another with: seqexport build {self.runner.bundle.path}"
        if not low <= self.batch <= high:
            raise UserError(
                f"batch of {self.batch}: the engine takes {low} to {high} rows; {rebuild} {option} "
                f"input_ids:{self.batch}x{self.runner.widths[option == '--maxShapes']}"
            )
        if self.capacity > rooms[1] and rooms[1]:
            raise UserError(
                f"capacity of {self.capacity} tokens: the engine's caches hold {rooms[1]}; {rebuild} --maxShapes with "
                "a cache's shape"
            )

    def _allocate(self, spec: StateSpec) -> tuple[Memory, Memory]:
        size = (
            int(np.prod(spec.sizes(self.batch, self._room)))
            * storage(self.runner.engine.dtype(spec.past_name)).itemsize
        )
        first = self._taken(size)
        return first, first if spec.grows and self.runner.caches_in_place else self._taken(size)

    def _taken(self, size: int) -> Memory:
        memory = self.cuda.allocate(size)
        self._resources.callback(self.cuda.free, memory)
        return memory

    def _run(self, tokens: Tokens, seq_lens: Lengths) -> Floats:
        if not self._closing.alive:
            raise UserError("this session is closed; start a new one")
        whole = self.contract.logits == "all"
        chunks = split(tokens, seq_lens, self.runner.widths[1], whole=whole)
        lengths, logits = self.lengths, list[Floats]()
        for chunk in chunks:
            try:
                logits.append(self._feed(chunk, lengths))
            except UserError:
                if logits:  # the states have moved on, and their lengths have not
                    self.close()
                raise
            lengths = lengths + chunk.seq_lens
        return merge(chunks, logits, whole=whole)

    def _feed(self, chunk: Chunk, lengths: Lengths) -> Floats:
        staging = self._step(chunk, lengths) if chunk.tokens.shape[1] == 1 else self._prefill(chunk, lengths)
        self.cuda.synchronize()
        self._place = 1 - self._place
        return staging.logits(chunk.tokens.shape[1])

    def _prefill(self, chunk: Chunk, lengths: Lengths) -> Staging:
        width = max(chunk.tokens.shape[1], self.runner.widths[0])
        staging, context = self.runner.staging(self.batch, width), self.runner.prefill_context
        staging.fill(chunk, lengths, width)
        self._set_shapes(context, width)
        self._bind(context, staging)
        self._enqueue(context, staging)
        return staging

    def _step(self, chunk: Chunk, lengths: Lengths) -> Staging:
        decoder = self._decoder or self._open_decoder()
        decoder.staging.fill(chunk, lengths, 1)
        if self._place not in decoder.graphs and decoder.warm and self.runner.no_graph is None:
            self._capture(decoder)
        if self._place in decoder.graphs:
            self.cuda.launch(decoder.graphs[self._place])
        else:
            self._bind(decoder.context, decoder.staging)
            self._enqueue(decoder.context, decoder.staging)
            decoder.warm = True
        return decoder.staging

    def _open_decoder(self) -> Decoder:
        decoder = Decoder(self.runner.create_context(DECODE), Staging(self.runner, self.batch, 1))
        self._resources.callback(decoder.staging.close)
        self._set_shapes(decoder.context, 1)
        self._decoder = decoder
        return decoder

    def _capture(self, decoder: Decoder) -> None:
        self._bind(decoder.context, decoder.staging)
        try:
            graph = self.cuda.capture(lambda: self._enqueue(decoder.context, decoder.staging))
        except CaptureFailed as error:
            self.runner.no_graph = str(error)
            return
        decoder.graphs[self._place] = graph
        self._resources.callback(self.cuda.destroy, graph)

    def _set_shapes(self, context: Any, width: int) -> None:
        named = {"batch": self.batch, "seq": width, "max_len": self._room}
        for spec in self.contract.inputs:
            shape = tuple(named[axis] if isinstance(axis, str) else axis for axis in spec.shape)
            if not context.set_input_shape(spec.name, shape):
                raise self.runner.failure(f"refuses {spec.name} of shape {shape}")

    def _bind(self, context: Any, staging: Staging) -> None:
        addresses = staging.addresses()
        for spec in self.contract.states:
            places = self._states[spec.past_name]
            addresses[spec.past_name] = places[self._place].address
            addresses[spec.present_name] = places[1 - self._place].address
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self.runner.failure(f"refuses the memory of {name}")

    def _enqueue(self, context: Any, staging: Staging) -> None:
        staging.upload()
        if not context.execute_async_v3(self.cuda.stream_handle):
            raise self.runner.failure("failed")
        staging.download()

    def read_states(self) -> States:
        longest = int(self.lengths.max())
        states: States = {}
        for spec in self.contract.states:
            dtype = self.runner.engine.dtype(spec.past_name)
            array = np.empty(spec.sizes(self.batch, self._room), storage(dtype))
            self.cuda.read(self._states[spec.past_name][self._place], array)
            states[spec.past_name] = to_float32(array, dtype) if dtype == "bfloat16" else array
            if spec.grows:
                states[spec.past_name] = states[spec.past_name][:, :, :longest].copy()
        return states

    def write_states(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        lengths = np.asarray(lengths, np.int32)
        self._check_capacity(lengths - self.lengths)
        for spec in self.contract.states:
            held = states[spec.past_name].shape[2] if spec.grows else 0
            if held > self.capacity:
                raise UserError(f"{spec.past_name}: {held} tokens, the session holds {self.capacity}")
        for spec in self.contract.states:
            given, dtype = states[spec.past_name], self.runner.engine.dtype(spec.past_name)
            array = np.zeros(spec.sizes(self.batch, self._room), storage(dtype))
            part = array[:, :, : given.shape[2]] if spec.grows else array
            part[...] = from_float32(given, dtype)
            self.cuda.write(self._states[spec.past_name][self._place], array)
        self.lengths = lengths.copy()

    def close(self) -> None:
        self._decoder = None
        self._closing()
