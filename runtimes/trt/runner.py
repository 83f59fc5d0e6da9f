"""TensorRT: a bundle's engine, its states kept on the device, one token at a time as a CUDA graph. Needs no PyTorch."""

from __future__ import annotations

import threading
import weakref
from typing import Any, ClassVar

from seqexport.runtimes.base import Runner
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.trt.cuda import Cuda
from seqexport.runtimes.trt.on_gpu import OnGpu, opened
from seqexport.runtimes.trt.plan import PREFILL, Engine
from seqexport.runtimes.trt.session import TrtSession
from seqexport.runtimes.trt.staging import Staging


def open_trt(bundle: Bundle) -> TrtRunner:
    """Raises UserError: as ``opened``."""
    return opened(TrtRunner, bundle)


class TrtRunner(OnGpu, Runner):
    """A bundle's engine on one stream of one GPU. Its sessions take turns, in whatever threads they are.

    All sessions share the stream, the activations' memory, the context of the prefill profile and what carries its
    tokens and logits.

    Args:
        engine: built from ``bundle``.
        cuda: the device that it lies on; closed with the runner.

    Raises:
        UserError: the engine is of another graph, or there is no room for its activations.
    """

    backend: ClassVar[str] = "trt"

    def __init__(self, bundle: Bundle, engine: Engine, cuda: Cuda) -> None:
        Runner.__init__(self, bundle)
        OnGpu.__init__(self, bundle, engine, cuda)
        self.turn = threading.RLock()
        self.batches = engine.limits("input_ids", 0, PREFILL)
        self.widths = engine.limits("input_ids", 1, PREFILL)
        grown = next((spec for spec in self.manifest.states if spec.grows), None)
        self.rooms = engine.limits(grown.past_name, grown.shape.index("max_len"), PREFILL) if grown else (0, 0)
        self.caches_in_place = engine.record.plugins is not None
        self.no_graph: str | None = None
        self._sessions: weakref.WeakSet[TrtSession] = weakref.WeakSet()
        self._prefill: Any = None
        self._staging: Staging | None = None

    @property
    def description(self) -> str:
        decode = "decode as a CUDA graph" if self.no_graph is None else f"decode without a CUDA graph ({self.no_graph})"
        return f"{self.engine_description}, {decode}"

    def session(self, batch: int = 1, capacity: int | None = None) -> TrtSession:
        if capacity is None:
            capacity = min(self.manifest.capacity or 0, self.rooms[1])
        with self.turn:
            session = TrtSession(self, batch, capacity)
            self._sessions.add(session)
        return session

    @property
    def prefill_context(self) -> Any:
        if self._prefill is None:
            self._prefill = self.create_context(PREFILL)
        return self._prefill

    def staging(self, batch: int, width: int) -> Staging:
        """Room for a chunk, which grows with what is asked for: logits of every token make it large."""
        if self._staging is None or self._staging.batch < batch or self._staging.width < width:
            if self._staging is not None:
                self._staging.close()
                self._staging = None
            whole = self.manifest.logits == "all"
            self._staging = Staging(self, batch, width if whole else self.widths[1])
        return self._staging

    def _close(self) -> None:
        with self.turn:
            for session in list(self._sessions):
                session.close()
            if self._staging is not None:
                self._staging.close()
            self._prefill = self._staging = None
            super()._close()
