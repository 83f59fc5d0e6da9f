"""A session in TensorRT: its states on the device, and its steps as CUDA graphs."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Lengths, Session, Tokens
from seqexport.runtimes.chunks import Chunk, merge, split
from seqexport.runtimes.manifest import StateSpec
from seqexport.runtimes.storage import readable, storage, stored_zeros
from seqexport.runtimes.trt.cuda import CaptureFailed, Memory
from seqexport.runtimes.trt.plan import DECODE
from seqexport.runtimes.trt.staging import Staging

if TYPE_CHECKING:
    from seqexport.runtimes.trt.runner import TrtRunner


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
    read and write, or two where function bodies were built. One token a sequence runs as a CUDA graph, of which
    there are two, captured after a first step without.
    """

    runner: TrtRunner

    def __init__(self, runner: TrtRunner, batch: int, capacity: int) -> None:
        super().__init__(runner, batch, capacity)
        self.cuda = runner.cuda
        self._check_limits()
        self._room = max(capacity, runner.rooms[0])
        self._place = 0
        self._decoder: Decoder | None = None
        self._resources = ExitStack()
        self._closing = weakref.finalize(self, self._resources.close)
        self._closing.atexit = False
        try:
            self._states = {spec.past_name: self._allocate(spec) for spec in self.manifest.states}
        except UserError:
            self.close()
            raise

    def _check_limits(self) -> None:
        (low, high), rooms = self.runner.batches, self.runner.rooms
        option = "--minShapes" if self.batch < low else "--maxShapes"
        rebuild = f"build another with: seqexport build {self.runner.bundle.path}"
        if not low <= self.batch <= high:
            raise UserError(
                f"batch of {self.batch}: the engine takes {low} to {high} sequences; {rebuild} {option} "
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

    def _run(self, tokens: Tokens, seq_lens: Lengths) -> NDArray[Any]:
        whole = self.manifest.logits == "all"
        chunks = split(tokens, seq_lens, self.runner.widths[1], whole=whole)
        lengths, logits = self.lengths, list[NDArray[Any]]()
        for chunk in chunks:
            try:
                logits.append(self._feed(chunk, lengths))
            except UserError:
                if logits:  # the states have moved on, and their lengths have not
                    self.close()
                raise
            lengths = lengths + chunk.seq_lens
        return merge(chunks, logits, whole=whole)

    def _feed(self, chunk: Chunk, lengths: Lengths) -> NDArray[Any]:
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
        for spec in self.manifest.inputs:
            shape = tuple(named[axis] if isinstance(axis, str) else axis for axis in spec.shape)
            if not context.set_input_shape(spec.name, shape):
                raise self.runner.failure(f"refuses {spec.name} of shape {shape}")

    def _bind(self, context: Any, staging: Staging) -> None:
        addresses = staging.addresses()
        for spec in self.manifest.states:
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

    def _read_state(self, spec: StateSpec) -> NDArray[np.floating]:
        dtype = self.runner.engine.dtype(spec.past_name)
        stored = np.empty(spec.sizes(self.batch, self._room), storage(dtype))
        self.cuda.read(self._states[spec.past_name][self._place], stored)
        state = readable(stored, dtype)
        return state[:, :, : self.position].copy() if spec.grows else state

    def _write(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        for spec in self.manifest.states:
            if spec.past_name in states:
                dtype, sizes = self.runner.engine.dtype(spec.past_name), spec.sizes(self.batch, self._room)
                array = stored_zeros(sizes, dtype, states[spec.past_name])
                self.cuda.write(self._states[spec.past_name][self._place], array)

    def _clear(self, spec: StateSpec) -> None:
        self.cuda.zero(self._states[spec.past_name][self._place])

    def _read_row_state(self, spec: StateSpec, row: int) -> NDArray[np.floating]:
        dtype = self.runner.engine.dtype(spec.past_name)
        stored = np.empty(spec.sizes(1, self._room), storage(dtype))
        self.cuda.read(self._row_of(spec, row, stored.nbytes), stored)
        return readable(stored, dtype)

    def _write_row(self, row: int, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        for spec in self.manifest.states:
            dtype, sizes = self.runner.engine.dtype(spec.past_name), spec.sizes(1, self._room)
            stored = stored_zeros(sizes, dtype, states[spec.past_name])
            self.cuda.write(self._row_of(spec, row, stored.nbytes), stored)

    def _copy_rows(self, rows: slice, other: Session, theirs: slice, lengths: Lengths) -> None:
        assert isinstance(other, TrtSession)
        if self._room != other._room and any(spec.grows for spec in self.manifest.states):
            super()._copy_rows(rows, other, theirs, lengths)
            return
        for spec in self.manifest.states:
            size = self._states[spec.past_name][0].bytes // self.batch
            self.cuda.copy(self._rows_of(spec, rows, size), other._rows_of(spec, theirs, size))

    def _rows_of(self, spec: StateSpec, rows: slice, size: int) -> Memory:
        """Where a state of some sequences lies, of each in ``size`` bytes; the batch is every state's first axis."""
        start = self._states[spec.past_name][self._place].address + rows.start * size
        return Memory(start, (rows.stop - rows.start) * size)

    def _row_of(self, spec: StateSpec, row: int, size: int) -> Memory:
        return self._rows_of(spec, slice(row, row + 1), size)

    def _copy_states(self, other: Session) -> None:
        assert isinstance(other, TrtSession)
        for name, places in self._states.items():
            self.cuda.copy(places[self._place], other._states[name][other._place])

    def _close(self) -> None:
        self._decoder = None
        self._closing()
