"""ONNX Runtime: the bundle's graph on CPU or CUDA, its states kept in the runtime's own buffers between calls."""

from __future__ import annotations

import itertools
import threading
from typing import Any, ClassVar, Literal

import numpy as np
from packaging.version import Version

from seqexport.plugins.cores import usable_cores
from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.ort.library import OpsLibrary

try:
    import onnxruntime as ort
except ImportError as error:
    raise UserError(
        "the backend 'ort' needs ONNX Runtime: pip install 'seqexport[ort]' (CPU) or 'seqexport[ort-gpu]' (CUDA)"
    ) from error

from seqexport.runtimes.ort import cuda
from seqexport.runtimes.ort.session import OrtSession, first_line

Device = Literal["cpu", "cuda"]
FATAL = 4
"""ONNX Runtime's log level for nothing but a crash: it raises what it logs as an error."""

ATTENTION_SINCE = "1.32"
"""The first whose GroupQueryAttention takes ragged chunks."""

OPSET_27_SINCE = "1.32"
"""The first that reads opset 27, the newest that an export writes."""

BFLOAT16_SINCE = "1.20"
"""The first that binds memory as a type that NumPy lacks."""

WITHOUT_HUB_CACHE = "1.24.1"
"""The one that opens no model whose files are links into one folder, as the hub's cache has them."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": cuda.PROVIDER}


class OrtRunner(Runner):
    """A bundle in an ONNX Runtime session.

    Args:
        bundle: an opened bundle.
        device: ``cpu`` or ``cuda``.
        threads: of the CPU provider; default: all cores.
        plugins: False runs the ops' function bodies even where the compiled library could run them.
        cuda_graphs: on CUDA, capture decode where ONNX Runtime can.
        spins: whether threads of the CPU provider that have nothing to do keep their cores busy for a while, so that
            they begin sooner; False where something else of this process wants the cores between two calls.

    Attributes:
        ops: what computes our ops.
        no_graph: why decode runs without a CUDA graph; None where it runs as one.

    Raises:
        UserError: the provider is not there, the library is damaged, or ONNX Runtime refuses the graph.
    """

    backend: ClassVar[str] = "ort"

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = "cpu",
        threads: int | None = None,
        plugins: bool = True,
        cuda_graphs: bool = True,
        spins: bool = True,
    ) -> None:
        super().__init__(bundle)
        self.device, self.threads, self._spins = device, threads, spins
        if device == "cuda":
            cuda.preload()
        check_runs(bundle, device)
        self.ops = OpsLibrary.for_graph(self.manifest.ops, device, plugins=plugins)
        self.caches_in_place = self.manifest.caches_in_place or self.ops.writes_caches_in_place
        self.input_names = {spec.name for spec in self.manifest.inputs}
        self.graph_ids = itertools.count(1)
        self.no_graph = self._why_no_graph(cuda_graphs)
        if self.no_graph is None:
            self.no_graph = self._open_with_graphs()
        if self.no_graph is not None:
            self._open(graphs=False)
        else:
            self.turn = threading.RLock()  # ONNX Runtime captures and replays graphs in one thread at a time

    def _why_no_graph(self, wanted: bool) -> str | None:
        if self.device != "cuda" or not wanted:
            return "not asked for"
        lowered = self.manifest.target == "ort" and "SelectiveScan" not in self.manifest.ops
        if self.manifest.ops and not self.ops.path and not lowered:
            return "our ops run as function bodies"
        return None

    def _open_with_graphs(self) -> str | None:
        """Open the engine and let it capture two steps; why it cannot, in ONNX Runtime's words."""
        try:
            self._open(graphs=True)
            with self.session(1, min(self.manifest.capacity or 0, 2)) as session:
                for _ in range(2):
                    session.step(np.zeros(1, np.int64))
        except UserError as error:
            self.__dict__.pop("engine", None)  # and with it a stream that may still be capturing
            return first_line(error.__cause__ or error)
        return None

    def _open(self, *, graphs: bool) -> None:
        self.engine = open_engine(
            self.bundle, self.ops, device=self.device, threads=self.threads, graphs=graphs, spins=self._spins
        )

    @property
    def description(self) -> str:
        said = described(self.bundle, self.ops, self.device)
        if self.device == "cpu":
            return said
        graph = "as a CUDA graph" if self.no_graph is None else f"without a CUDA graph ({self.no_graph})"
        return f"{said}, decode {graph}"

    def session(self, batch: int = 1, capacity: int | None = None) -> OrtSession:
        return OrtSession(self, batch, capacity if capacity is not None else self.manifest.capacity or 0)

    def _close(self) -> None:
        del self.engine


def open_engine(
    bundle: Bundle,
    ops: OpsLibrary,
    *,
    device: Device,
    threads: int | None,
    graphs: bool = False,
    spins: bool = True,
) -> Any:
    """An ``InferenceSession`` of a bundle's graph; ``graphs``: one that can capture its runs on CUDA.

    Raises:
        UserError: ONNX Runtime refuses the graph, or it is not the manifest's.
    """
    bundle.check_graph()
    options = ops.session_options()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads or usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    try:
        if device == "cuda":
            engine = cuda.open_session(bundle.model, options, graphs=graphs)
        else:
            engine = ort.InferenceSession(str(bundle.model), options, providers=[PROVIDERS["cpu"]])
    except UserError:
        raise
    except Exception as error:
        raise UserError(_why_not_loaded(bundle, str(error), ops)) from error
    return engine


def described(bundle: Bundle, ops: OpsLibrary, device: Device) -> str:
    """What runs a bundle: version, provider, target, and what computes our ops."""
    said = f"ONNX Runtime {ort.__version__}, {PROVIDERS[device]}, target {bundle.manifest.target}"
    return f"{said}, {ops}" if bundle.manifest.ops else said


def _why_not_loaded(bundle: Bundle, error: str, ops: OpsLibrary) -> str:
    if "is not a registered function/op" in error and not ops.path:
        return (
            f"{bundle.path}: target {bundle.manifest.target} has no function bodies, so ONNX Runtime needs the library "
            f"of our ops, and {ops.why_not}; build it: seqexport plugins build, or export with `target='portable'`"
        )
    if "GroupQueryAttention" in error:
        return _needs_attention(bundle)
    if "External data path" in error and "escapes" in error:
        way_out = f"copy it with what its links lead to: cp -rL {bundle.path} FOLDER"
        if bundle.model.is_symlink():
            way_out = f"use one that is not {WITHOUT_HUB_CACHE}, which alone refuses the hub's cache, or {way_out}"
        return f"{bundle.path}: ONNX Runtime {ort.__version__} does not follow a link to its weights; {way_out}"
    return f"ONNX Runtime {ort.__version__} cannot load {bundle.model}: {error.strip().splitlines()[0]}"


def check_runs(bundle: Bundle, device: str) -> None:
    """Refuse what this ONNX Runtime is known not to run, before it reads a weight.

    Raises:
        UserError: it lacks the provider, kernels for the dtype, the attention of target ``ort``, or the opset.
    """
    check_provider(device)
    _check_dtype(bundle, device)
    manifest = bundle.manifest
    attends = manifest.caches_in_place and any(spec.grows for spec in manifest.states)
    if manifest.target == "ort" and attends and _is_older_than(ATTENTION_SINCE):
        raise UserError(_needs_attention(bundle))
    if manifest.opset >= 27 and _is_older_than(OPSET_27_SINCE):
        needs = f"opset {manifest.opset} needs ONNX Runtime {OPSET_27_SINCE} or newer"
        raise UserError(_too_old(bundle, needs, "`opset=20`"))


def _is_older_than(version: str) -> bool:
    return Version(ort.__version__).release < Version(version).release


def _needs_attention(bundle: Bundle) -> str:
    needs = f"target {bundle.manifest.target} needs ONNX Runtime {ATTENTION_SINCE} or newer for its attention"
    return _too_old(bundle, needs, "`target='portable'`")


def _too_old(bundle: Bundle, needs: str, instead: str) -> str:
    return f"{bundle.path}: {needs}, and this is {ort.__version__}; upgrade it, or export with {instead}"


def check_provider(device: str) -> None:
    """Raises UserError: this ONNX Runtime has no provider for the device."""
    if PROVIDERS[device] not in ort.get_available_providers():
        raise UserError(
            f"ONNX Runtime {ort.__version__} has no {PROVIDERS[device]} here (it has "
            f"{', '.join(ort.get_available_providers())}); install onnxruntime-gpu and an NVIDIA driver, "
            "or use `device='cpu'`"
        )


def _check_dtype(bundle: Bundle, device: str) -> None:
    if bundle.manifest.dtype != "bfloat16":
        return
    if device == "cpu":
        raise UserError(
            f"{bundle.path} is bfloat16, for which ONNX Runtime's CPU has no kernels; export in fp16 or fp32"
        )
    if not cuda.has_bfloat16():
        raise UserError(
            f"{bundle.path} is bfloat16, which ONNX Runtime takes from Python since {BFLOAT16_SINCE}, and this is "
            f"{ort.__version__}; upgrade it, or export in fp16 or fp32"
        )
