"""Loads the ``tensorrt`` package, and hides how its versions 8.6 to 11 differ in what we use of it."""

from __future__ import annotations

import ctypes
import functools
import json
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from packaging.version import Version

from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.runtimes import cublas

OLDEST = Version("8.6")
INSTALL = "install the one that fits your CUDA: pip install 'seqexport[trt]' (JetPack brings its own)"
PREVIEW_8 = {"PROFILE_SHARING_0806": True, "FASTER_DYNAMIC_SHAPES_0805": False}
"""8.6's preview features, on or off, in engines of our graphs. The first lets several sessions share a profile, as they
always may in later versions. The second, if on, gives more layers to Myelin, TensorRT's inner compiler, which in 8.6.0
fails on models of real size (seen with 130 M parameters on an H100)."""

NUMPY_NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT32": "int32", "INT64": "int64"}


class Progress(Protocol):
    """Told how far a build has come; a phase may have phases inside it."""

    def phase_start(self, name: str, parent: str | None, steps: int) -> None: ...

    def step(self, name: str, done: int) -> None: ...

    def phase_finish(self, name: str) -> None: ...

    def warn(self, message: str) -> None: ...


@functools.cache
def load_tensorrt() -> Any:
    """The ``tensorrt`` package.

    Raises:
        UserError: it is not installed, does not load, or is too old.
    """
    try:
        import tensorrt
    except ImportError as error:
        raise UserError(f"the backend 'trt' needs TensorRT ({error}): {INSTALL}") from error
    except Exception as error:
        raise UserError(f"TensorRT does not load: {' '.join(str(error).split())}; {INSTALL}") from error
    if Version(tensorrt.__version__).release < OLDEST.release:
        raise UserError(f"TensorRT {tensorrt.__version__}: expected {OLDEST} or newer; {INSTALL}")
    return tensorrt


def version(trt: Any) -> str:
    """The first three numbers of its version, as in ``8.6.0``."""
    return ".".join(map(str, Version(trt.__version__).release[:3]))


def major(trt: Any) -> int:
    return Version(trt.__version__).major


class Log:
    """What TensorRT has said since ``clear``.

    Attributes:
        errors: its messages, one line each.
        interrupted: Ctrl-C came while TensorRT was logging, which lets no exception through; the build raises it later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.errors: list[str] = []
        self.interrupted = False

    def add(self, message: str) -> None:
        with self._lock:
            self.errors.append(" ".join(message.split()))

    def clear(self) -> None:
        with self._lock:
            self.errors.clear()
            self.interrupted = False

    def cause(self) -> str:
        """The first error of our plugins, else TensorRT's first, else an empty text."""
        ours = [error.partition("seqexport: ")[2] for error in self.errors if "seqexport: " in error]
        return next(iter([*ours, *self.errors]), "")


@functools.cache
def logger(trt: Any) -> tuple[Any, Log]:
    """The logger for this process, since TensorRT takes only one, and the errors that it collects."""
    log = Log()

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            try:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    log.add(message)
            except KeyboardInterrupt:
                log.interrupted = True

    return Logger(), log


def load_plugins(trt: Any) -> library.Built:
    """Our plugin library, registered with TensorRT.

    Raises:
        UserError: it is not built, damaged, built for another major version of TensorRT, or does not load; or another
            library's plugin has the name of one of ours.
    """
    built = library.require("tensorrt")
    made_for = built.built_for.get("tensorrt", "")
    if not made_for or Version(made_for).major != major(trt):
        raise UserError(
            f"{built.path}: built for TensorRT {made_for or 'unknown'}, and this is {version(trt)}; build it "
            f"again: {library.BUILD}"
        )
    if cublas.load(Version(built.built_for.get("cuda", "0")).major) is None:
        raise UserError(f"no libcublasLt {cublas.PLACES}; {cublas.INSTALL}")
    log = logger(trt)[1]
    log.clear()
    if conflict := _ask(built.path, "conflict"):
        raise UserError(f"{built.path}: {conflict}")
    _register(trt, built.path)
    ops: list[str] = json.loads(_ask(built.path, "info"))["ops"]
    if missing := sorted({*ops} - _creators(trt)):
        raise UserError(
            f"{built.path}: TensorRT {version(trt)} finds no {missing[0]} in it ({log.cause()}); build it again: "
            f"{library.BUILD}"
        )
    return built


@functools.cache
def _register(trt: Any, path: Path) -> Any:
    try:
        return trt.get_plugin_registry().load_library(str(path))
    except Exception as error:
        raise UserError(f"{path}: does not load ({error}); build it again: {library.BUILD}") from error


def _ask(path: Path, what: str) -> str:
    """Ask the plugin library, loading it first if need be.

    ``info`` gives JSON: its version and its ops. ``conflict`` gives a sentence if another library has registered a
    plugin under the name of one of ours, else an empty text.
    """
    try:
        ask = getattr(ctypes.CDLL(str(path)), f"seqexport_tensorrt_{what}")
    except (OSError, AttributeError) as error:  # it does not load, or was built from older sources
        raise UserError(f"{path}: does not load ({error}); build it again: {library.BUILD}") from error
    ask.restype = ctypes.c_char_p
    answer: bytes = ask()
    return answer.decode(errors="replace")


def _creators(trt: Any) -> set[str]:
    registry = trt.get_plugin_registry()
    every = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
    return {creator.name for creator in every}


def strongly_typed(trt: Any) -> bool:
    """Whether a whole network can be held to the types of the graph; before 10, each layer is (precision.py)."""
    return major(trt) >= 10


def network_flags(trt: Any) -> int:
    """Flags for a network that is strongly typed where it can be, with batch as an axis of its own.

    From 11 on every network is strongly typed, and from 10 on every one has the batch axis.
    """
    flags = trt.NetworkDefinitionCreationFlag
    if major(trt) >= 11:
        return 0
    return 1 << int(flags.STRONGLY_TYPED if strongly_typed(trt) else flags.EXPLICIT_BATCH)


def default_features(trt: Any) -> dict[Any, bool]:
    """The preview features of an engine of ours, unless the user asks for others."""
    return {getattr(trt.PreviewFeature, name): on for name, on in PREVIEW_8.items()} if major(trt) < 10 else {}


def loses_timings(trt: Any, cause: str) -> bool:
    """Whether a timing cache was refused for a reason that is not the user's: before 10, TensorRT cannot read back what
    Myelin put in it."""
    return major(trt) < 10 and "Myelin" in cause


def known_fault(trt: Any, ops: Collection[str], graph: bytes) -> str | None:
    """What engines of these ops of ours, in a graph like this, were seen to get wrong in this TensorRT, if anything.

    Of routers that are not one TopKRouter: those by sigmoid take the scores of the chosen by GatherElements.
    """
    if major(trt) >= 10 or "Experts" not in ops or b"GatherElements" not in graph:
        return None
    return (
        "engines of models that choose experts by a sigmoid gave wrong logits, or none that are finite, in TensorRT "
        "8.6.0 (H200) where two sequences were read in chunks of 7 tokens, and right ones where they were read "
        "whole or by single tokens; try this one: seqexport verify --backend trt"
    )


def preview_features(trt: Any, names: Sequence[str]) -> dict[Any, bool]:
    """Which of TensorRT's preview features are to be on or off, from trtexec's ``+name`` and ``-name``.

    Raises:
        UserError: a name has no sign, or this version has no such feature.
    """
    members = getattr(trt, "PreviewFeature", None)
    known = {member.replace("_", "").lower(): value for member, value in members.__members__.items()} if members else {}
    chosen = {}
    for name in names:
        if name[:1] not in ("+", "-") or name[1:].lower() not in known:
            features = ", ".join(known) or "none"
            raise UserError(f"--preview {name!r}: expected + or - and a feature of TensorRT {version(trt)}: {features}")
        chosen[known[name[1:].lower()]] = name[0] == "+"
    return chosen


def tactic_sources(trt: Any, names: Sequence[str]) -> list[Any]:
    """TensorRT's tactic sources of these names.

    Raises:
        UserError: this version has no such source.
    """
    known = trt.TacticSource.__members__
    for name in names:
        if name not in known:
            raise UserError(f"--tactic-sources {name!r}: TensorRT {version(trt)} has {', '.join(known)}, or none")
    return [known[name] for name in names]


MEMORY_POOLS = {
    "workspace": "WORKSPACE",
    "dlaSRAM": "DLA_MANAGED_SRAM",
    "dlaLocalDRAM": "DLA_LOCAL_DRAM",
    "dlaGlobalDRAM": "DLA_GLOBAL_DRAM",
    "tacticSharedMem": "TACTIC_SHARED_MEMORY",
}
"""trtexec's names, and TensorRT's."""


def memory_pool(trt: Any, name: str) -> Any:
    """TensorRT's memory pool by trtexec's name.

    Raises:
        UserError: this version has no such pool.
    """
    pools = trt.MemoryPoolType.__members__
    known = [ours for ours, theirs in MEMORY_POOLS.items() if theirs in pools]
    if name not in known:
        raise UserError(f"--memPoolSize {name}: the pools of TensorRT {version(trt)} are {', '.join(known)}")
    return pools[MEMORY_POOLS[name]]


def node_of(error: Any) -> str | None:
    """The op and the node that a parser's error names; None before 10, where it names neither."""
    if not hasattr(error, "node_operator"):
        return None
    return f"{error.node_operator()} {error.node_name()}".strip() or None


def progress_monitor(trt: Any, progress: Progress) -> Any:
    """What passes TensorRT's own reports on to ``progress``; None before 9, which reports nothing.

    Ctrl-C during a report ends the build: TensorRT then gives no engine, and ``interrupted`` is true.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._tell(lambda: progress.phase_start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(lambda: progress.step(phase_name, step + 1))
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._tell(lambda: progress.phase_finish(phase_name))

        def _tell(self, tell: Callable[[], None]) -> None:
            try:
                tell()
            except KeyboardInterrupt:
                self.interrupted = True

    return Monitor()


def dtype_name(dtype: Any) -> str:
    """numpy's name of a TensorRT dtype; ``bfloat16`` for that."""
    return NUMPY_NAMES[dtype.name]


def scratch_bytes(engine: Any) -> int:
    """Bytes of device memory that an execution context needs, the same for every profile."""
    return int(engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size)


def create_context(trt: Any, engine: Any, scratch: int, size: int) -> Any:
    """An execution context that works in the ``size`` bytes of device memory at ``scratch``; None if memory ran out."""
    strategies = getattr(trt, "ExecutionContextAllocationStrategy", None)
    if strategies is None:
        context = engine.create_execution_context_without_device_memory()
    else:
        context = engine.create_execution_context(strategies.USER_MANAGED)
    if context is None:
        return None
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(scratch, size)
    else:
        context.device_memory = scratch
    return context
