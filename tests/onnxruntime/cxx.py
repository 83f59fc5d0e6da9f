"""What C++ programs are compiled with to run in the ONNX Runtime that Python has."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from seqexport.plugins import folders
from tests.conftest import leave_out

PACKAGE = Path(onnxruntime.__file__).parent


def headers(what: str) -> Path:
    """The folder of ONNX Runtime's headers; without them ``what`` is left out."""
    header = next(iter(PACKAGE.rglob("onnxruntime_c_api.h")), None) or _cached_header()
    return header.parent if header else leave_out(f"{what} left out: no headers of ONNX Runtime")


def headers_and_library(folder: Path, what: str) -> tuple[Path, Path]:
    """The folder of ONNX Runtime's headers, and its library by a link in ``folder``; without them ``what`` is left out.

    The link has the name that the loader will look for; pip's file has another.
    """
    include, runtime = headers(what), next(iter(PACKAGE.glob("capi/libonnxruntime.so.*")), None)
    if runtime is None:
        leave_out(f"{what} left out: no libonnxruntime.so of ONNX Runtime")
    linked = folder / "libonnxruntime.so.1"
    if not linked.exists() or not linked.samefile(runtime):
        linked.unlink(missing_ok=True)
        linked.symlink_to(runtime)
    return include, linked


def _cached_header() -> Path | None:
    cached = (folders.cache() / "seqexport" / "headers").glob("onnxruntime-*/include/onnxruntime_c_api.h")
    return min(cached, default=None)
