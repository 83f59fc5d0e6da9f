"""What a call brings to the device and takes home: tokens and lengths in one copy, logits in another."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqexport.runtimes.base import Lengths
from seqexport.runtimes.chunks import Chunk
from seqexport.runtimes.storage import own, storage

if TYPE_CHECKING:
    from seqexport.runtimes.trt.runner import TrtRunner

ALIGNMENT = 256
"""Of the addresses that TensorRT takes."""

FEEDS = ("seq_lens", "past_lens", "input_ids")
"""In the order in which they lie in memory: the one whose size a call chooses is the last."""

Array = NDArray[Any]


class Staging:
    """Page-locked host memory and device memory for a call of up to ``batch`` sequences of ``width`` tokens.

    Raises:
        UserError: there is no room for it.
    """

    def __init__(self, runner: TrtRunner, batch: int, width: int) -> None:
        self.cuda, self.batch, self.width = runner.cuda, batch, width
        engine, manifest = runner.engine, runner.manifest
        dtypes = {name: np.dtype(engine.dtype(name)) for name in FEEDS if manifest.input_named(name)}
        counts = {name: batch * width if name == "input_ids" else batch for name in dtypes}
        self._offsets: dict[str, int] = {}
        end = 0
        for name, dtype in dtypes.items():
            self._offsets[name] = end
            end += -(-counts[name] * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self._all = manifest.logits == "all"
        self._logits_dtype = engine.dtype("logits")
        self._vocab = manifest.vocab_size
        self._used, self._rows, self._columns = 0, batch, 1
        with ExitStack() as stack:
            self._feeds, self._feeds_host = self._pair(end, stack)
            rows = batch * (width if self._all else 1)
            size = rows * self._vocab * storage(self._logits_dtype).itemsize
            self._logits, self._logits_host = self._pair(size, stack)
            self._resources = stack.pop_all()
        self._values = {
            name: self._feeds_host.array[offset : offset + counts[name] * dtypes[name].itemsize].view(dtypes[name])
            for name, offset in self._offsets.items()
        }

    def _pair(self, size: int, stack: ExitStack) -> Any:
        device = self.cuda.allocate(size)
        stack.callback(self.cuda.free, device)
        host = self.cuda.allocate_pinned(size)
        stack.callback(self.cuda.free_pinned, host)
        return device, host

    def addresses(self) -> dict[str, int]:
        """Of the feeds and the logits on the device."""
        feeds = {name: self._feeds.address + offset for name, offset in self._offsets.items()}
        return {**feeds, "logits": self._logits.address}

    def fill(self, chunk: Chunk, past_lens: Lengths, width: int) -> None:
        """Put a call's values into host memory, the tokens padded to ``width``."""
        tokens = chunk.tokens
        if tokens.shape[1] < width:
            tokens = np.pad(tokens, ((0, 0), (0, width - tokens.shape[1])))
        given: dict[str, Array] = {"seq_lens": chunk.seq_lens, "past_lens": past_lens, "input_ids": tokens}
        for name, values in self._values.items():
            values[: given[name].size] = given[name].reshape(-1)
        end = self._offsets["input_ids"] + tokens.size * self._values["input_ids"].itemsize
        self._used, self._rows, self._columns = end, len(tokens), width if self._all else 1

    def upload(self) -> None:
        self.cuda.copy_in(self._feeds.address, self._feeds_host.address, self._used)

    def download(self) -> None:
        self.cuda.copy_out(self._logits_host.address, self._logits.address, self._logits_bytes)

    @property
    def _logits_bytes(self) -> int:
        return self._rows * self._columns * self._vocab * storage(self._logits_dtype).itemsize

    def logits(self, columns: int) -> Array:
        """[batch, 1 or ``columns``, vocab] of the call that is done, in the engine's dtype."""
        values = self._logits_host.array[: self._logits_bytes].view(storage(self._logits_dtype))
        shaped = values.reshape(self._rows, self._columns, self._vocab)
        return own(shaped[:, :columns] if self._all else shaped, self._logits_dtype)

    def close(self) -> None:
        self._resources.close()
