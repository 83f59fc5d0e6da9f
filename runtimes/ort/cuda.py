"""ONNX Runtime's CUDA provider: the libraries that it needs, and decode as a CUDA graph."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.cublas import pip_folders
from seqexport.runtimes.manifest import Manifest
from seqexport.runtimes.ort.tensor import BFLOAT16, Tensor

PROVIDER = "CUDAExecutionProvider"
OPTIONS = {"use_tf32": "0"}
"""float32 products keep their 24 bits; TF32 has 11."""

GRAPH_ID = "gpu_graph_id"
NO_GRAPH = "-1"
"""The id of a run that is neither captured nor replayed."""


@functools.cache
def preload() -> str:
    """Load the CUDA libraries of pip's nvidia-* packages, once a process; gives what ONNX Runtime finds missing.

    ONNX Runtime looks for those packages beside itself only; where that is not enough, wherever Python finds them.
    """
    if not hasattr(ort, "preload_dlls"):  # before 1.21
        return ""
    missing = _preload()
    if missing:
        for folder in pip_folders():
            _preload(directory=str(folder))
        missing = _preload()
    return missing


def _preload(**where: str) -> str:
    """What ``preload_dlls`` prints, as one line."""
    said = io.StringIO()
    with redirect_stdout(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ort.preload_dlls(**where)
    return said.getvalue().strip().partition("\n")[0]


def open_session(model: Path, options: Any, *, graphs: bool) -> Any:
    """An ``InferenceSession`` on CUDA; ``graphs``: one that can capture its runs.

    Raises:
        UserError: ONNX Runtime fell back to the CPU, which it does in silence.
    """
    provider_options = dict(OPTIONS)
    if graphs:
        provider_options["enable_cuda_graph"] = "1"
        options.enable_mem_pattern = False  # the run that captures asks for the very memory that the one before had
    providers = [(PROVIDER, provider_options), "CPUExecutionProvider"]
    with redirect_stdout(io.StringIO()):
        session = ort.InferenceSession(str(model), options, providers=providers, enable_fallback=0)
    if PROVIDER not in session.get_providers():
        why = f" ({preload()})" if preload() else ""
        raise UserError(
            f"ONNX Runtime {ort.__version__} opened {model} on {', '.join(session.get_providers())}: expected "
            f"{PROVIDER}, which finds no GPU or not its CUDA and cuDNN libraries{why}; install a driver and them: "
            "pip install 'onnxruntime-gpu[cuda,cudnn]', or use `device='cpu'`"
        )
    return session


def has_bfloat16() -> bool:
    """Whether memory can be bound as bfloat16."""
    try:
        ort.OrtValue.ortvalue_from_shape_and_type([1], BFLOAT16)
    except RuntimeError:
        return False
    return True


def run_options(graph: int | str) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry(GRAPH_ID, str(graph))
    return options


def logits_tensor(manifest: Manifest, batch: int, length: int, device: str) -> Tensor:
    """Memory for the logits of a call of ``length`` tokens a sequence."""
    spec = next(spec for spec in manifest.outputs if spec.role == "logits")
    return Tensor.empty((batch, length if manifest.logits == "all" else 1, manifest.vocab_size), spec.dtype, device)


class Decoder:
    """Steps of one token a sequence through CUDA graphs, one for each place that a session's states take.

    A graph holds addresses, so everything is bound to memory of the device that stays, and each graph has an id that no
    other in the ``InferenceSession`` has. ONNX Runtime makes several runs of the first one of an id: without capture,
    so that all memory is there, and then a captured one, which it replays. They count as one step, because each reads
    the same past and writes the same present: a state of fixed size is written to its other place, and a cache in place
    gets the same rows again, at past_lens, which no run changes. Scratch memory of the graphs goes back to ONNX
    Runtime's arena, where other runs may use it between replays: it holds nothing from one replay to the next, all runs
    queue on one stream, and the arena returns nothing to the device.

    Args:
        ids: of graphs, each given once.
    """

    def __init__(self, engine: Any, manifest: Manifest, batch: int, ids: Iterator[int]) -> None:
        self._engine, self._ids = engine, ids
        self._feeds: dict[str, tuple[NDArray[Any], Tensor]] = {}
        self._logits = logits_tensor(manifest, batch, 1, "cuda")
        self._graphs: dict[int, tuple[int, Any, Any]] = {}

    def step(
        self,
        place: int,
        feeds: Mapping[str, NDArray[Any]],
        past: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
    ) -> NDArray[Any]:
        """Logits [batch, 1, vocab]. ``past`` and ``present`` are the same memory each time that ``place`` is."""
        for name, array in feeds.items():
            self._feed(name, array)
        graph, binding, options = self._graphs.get(place) or self._bound(past, present)
        self._engine.run_with_iobinding(binding, options)
        self._graphs[place] = graph, binding, options
        binding.synchronize_outputs()
        return self._logits.read()

    def _feed(self, name: str, array: NDArray[Any]) -> None:
        """Bring an input to its address, if what lies there is something else."""
        if name not in self._feeds:
            self._feeds[name] = (array.copy(), Tensor.of(array, str(array.dtype), "cuda"))
            return
        held, tensor = self._feeds[name]
        if not np.array_equal(held, array):
            tensor.write(array)
            held[...] = array

    def _bound(self, past: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[int, Any, Any]:
        graph, binding = next(self._ids), self._engine.io_binding()
        for name, (_, tensor) in self._feeds.items():
            tensor.bind_input(binding, name)
        for name, tensor in past.items():
            tensor.bind_input(binding, name)
        self._logits.bind_output(binding, "logits")
        for name, tensor in present.items():
            tensor.bind_output(binding, name)
        return graph, binding, run_options(graph)

    def close(self) -> None:
        """Give the graphs back, where ONNX Runtime can (since 1.27)."""
        release = getattr(self._engine, "release_captured_graph", None)
        for graph, _, _ in self._graphs.values():
            if release:
                release(graph)
        self._graphs.clear()
