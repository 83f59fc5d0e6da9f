"""A plan read into memory, with what it was built for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.trt import versions
from seqexport.runtimes.trt.cuda import Cuda
from seqexport.runtimes.trt.record import SERIALIZED_PLUGINS, EngineRecord, Platform, PluginsUsed, find_engine

PREFILL, DECODE = "prefill", "decode"
"""The names of the profiles."""


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


def load_engine(trt: Any, bundle: Bundle, cuda: Cuda) -> Engine:
    """A bundle's engine for this GPU and TensorRT.

    Raises:
        UserError: the engine or its plugin library is missing, damaged, or of another version.
    """
    gpu = cuda.gpu()
    here = Platform(gpu.name, gpu.compute_capability, versions.version(trt))
    plan, record = find_engine(bundle, here)
    if record.plugins is not None and SERIALIZED_PLUGINS not in record.flags:
        _load_plugins(trt, bundle, record.plugins)
    return _deserialized(trt, plan, record, cuda, bundle)


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
