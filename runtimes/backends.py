"""The backends by name; each is imported when it is asked for."""

from __future__ import annotations

from typing import cast

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner
from seqexport.runtimes.bundle import Bundle

BACKENDS = ("torch", "ort", "trt")


def open_runner(
    backend: str,
    bundle: Bundle,
    *,
    device: str = "cpu",
    threads: int | None = None,
    source: str | None = None,
    trust_remote_code: bool = False,
    no_plugins: bool = False,
) -> Runner:
    """Open a bundle on a backend.

    Args:
        device: ``cpu`` or ``cuda``; ``trt`` runs on the GPU whatever this says.
        threads: of the CPU; default: all cores.
        source: where the backend ``torch`` finds the original; default: where it was exported from.
        no_plugins: the backend ``ort`` runs the ops' function bodies, not the compiled library.

    Raises:
        UserError: the backend is unknown, or not to be had here.
    """
    if backend == "ort":
        from seqexport.runtimes.ort.runner import Device, OrtRunner

        return OrtRunner(bundle, device=cast(Device, device), threads=threads, no_plugins=no_plugins)
    if backend == "trt":
        from seqexport.runtimes.trt.runner import open_trt

        return open_trt(bundle)
    if backend == "torch":
        try:
            from seqexport.runtimes.pytorch.runner import TorchRunner
        except ImportError as error:
            raise UserError(f"the backend 'torch' needs {error.name}: pip install 'seqexport[export]'") from error
        return TorchRunner(bundle, device=device, threads=threads, source=source, trust_remote_code=trust_remote_code)
    raise UserError(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")
