"""The states of a batch in ONNX Runtime's memory, and the calls that move them on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Lengths, Session, Tokens
from seqexport.runtimes.manifest import StateSpec
from seqexport.runtimes.ort import cuda
from seqexport.runtimes.ort.tensor import Tensor
from seqexport.runtimes.storage import stored_zeros

if TYPE_CHECKING:
    from seqexport.runtimes.ort.runner import OrtRunner


class OrtSession(Session):
    """States live in ``OrtValue`` buffers on the device.

    A state of fixed size has two buffers that swap roles at each call. A key/value cache has one, bound as past and as
    present, if the graph updates it in place, else two. In place it may have to hold padded tokens beyond the capacity.
    """

    runner: OrtRunner

    def __init__(self, runner: OrtRunner, batch: int, capacity: int) -> None:
        super().__init__(runner, batch, capacity)
        self._room = capacity
        self._past = {s.past_name: self._zeros(s) for s in self.manifest.states}
        self._present = {
            s.present_name: self._past[s.past_name] if s.grows and runner.caches_in_place else self._zeros(s)
            for s in self.manifest.states
        }
        self._in_place = list(self._past.values()) == list(self._present.values())
        self._place = 0
        self._binding = runner.engine.io_binding()
        self._decoder: cuda.Decoder | None = None

    def _zeros(self, spec: StateSpec) -> Tensor:
        return self._tensor(spec, stored_zeros(spec.sizes(self.batch, self._room), spec.dtype))

    def _tensor(self, spec: StateSpec, stored: NDArray[Any]) -> Tensor:
        return Tensor.of(stored, spec.dtype, self.runner.device)

    def _make_room(self, length: int) -> None:
        """GroupQueryAttention wants a sequence's tokens and the whole padded call to fit into its cache."""
        needed = int(self.lengths.max()) + length
        if not self.manifest.caches_in_place or needed <= self._room:
            return
        self._room = needed
        self._close_decoder()
        for spec in self.manifest.states:
            if spec.grows:
                tensor = self._tensor(spec, self._fitted(spec, self._past[spec.past_name].read()))
                self._past[spec.past_name] = self._present[spec.present_name] = tensor

    def _fitted(self, spec: StateSpec, given: NDArray[Any]) -> NDArray[Any]:
        """A state as it is stored, in the shape of its buffer."""
        return stored_zeros(spec.sizes(self.batch, self._room), spec.dtype, given)

    def _run(self, tokens: Tokens, seq_lens: Lengths) -> NDArray[Any]:
        self._make_room(tokens.shape[1])
        given: dict[str, NDArray[Any]] = {"input_ids": tokens, "seq_lens": seq_lens, "past_lens": self.lengths}
        feeds = {name: array for name, array in given.items() if name in self.runner.input_names}
        try:
            if self.runner.no_graph is None and tokens.shape[1] == 1:
                logits = self._open_decoder().step(self._place, feeds, self._past, self._present)
            else:
                logits = self._call(feeds, tokens.shape[1])
        except Exception as error:
            raise UserError(f"ONNX Runtime failed: {first_line(error)}") from error
        self._swap()
        return logits

    def _open_decoder(self) -> cuda.Decoder:
        if self._decoder is None:
            runner = self.runner
            self._decoder = cuda.Decoder(runner.engine, self.manifest, self.batch, runner.graph_ids)
        return self._decoder

    def _call(self, feeds: Mapping[str, NDArray[Any]], length: int) -> NDArray[Any]:
        binding = self._binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name, tensor in self._past.items():
            tensor.bind_input(binding, name)
        own = self._bind_logits(length)
        for name, tensor in self._present.items():
            tensor.bind_output(binding, name)
        graphs = self.runner.no_graph is None
        self.runner.engine.run_with_iobinding(binding, cuda.run_options(cuda.NO_GRAPH) if graphs else None)
        if own is None:
            return binding.get_outputs()[0].numpy()
        binding.synchronize_outputs()
        return own.read()

    def _bind_logits(self, length: int) -> Tensor | None:
        """ONNX Runtime's own memory on the host, or ours for bfloat16, which it does not hand to NumPy."""
        if self.manifest.dtype != "bfloat16":
            self._binding.bind_output("logits", "cpu")
            return None
        tensor = cuda.logits_tensor(self.manifest, self.batch, length, self.runner.device)
        tensor.bind_output(self._binding, "logits")
        return tensor

    def _swap(self) -> None:
        if not self._in_place:
            self._place = 1 - self._place
        for spec in self.manifest.states:
            past, present = spec.past_name, spec.present_name
            self._past[past], self._present[present] = self._present[present], self._past[past]

    def _read_state(self, spec: StateSpec) -> NDArray[np.floating]:
        state = self._past[spec.past_name].read()
        return (state[:, :, : self.position] if spec.grows else state).copy()

    def _write(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        given = [spec for spec in self.manifest.states if spec.past_name in states]
        arrays = {spec.past_name: self._fitted(spec, states[spec.past_name]) for spec in given}
        for name, array in arrays.items():
            self._past[name].write(array)

    def _clear(self, spec: StateSpec) -> None:
        self._past[spec.past_name].clear()

    def _read_row_state(self, spec: StateSpec, row: int) -> NDArray[np.floating]:
        return self._past[spec.past_name].read_row(row)

    def _write_row(self, row: int, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        for name, tensor in self._past.items():
            tensor.write_row(row, states[name])

    def _copy_rows(self, rows: slice, other: Session, theirs: slice, lengths: Lengths) -> None:
        assert isinstance(other, OrtSession)
        if not all(tensor.copy_rows(rows, other._past[name], theirs) for name, tensor in self._past.items()):
            super()._copy_rows(rows, other, theirs, lengths)

    def _close(self) -> None:
        self._close_decoder()
        self._past.clear()
        self._present.clear()

    def _close_decoder(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
