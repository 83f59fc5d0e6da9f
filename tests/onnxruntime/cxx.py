"""What C++ programs are compiled with to run in the ONNX Runtime that Python has."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from seqexport.plugins import folders
from tests.conftest import leave_out


def headers_and_library(folder: Path, what: str) -> tuple[Path, Path]:
    """The folder of ONNX Runtime's headers, and its library by a link in ``folder``; without them ``what`` is left out.

    The link has the name that the loader will look for; pip's file has another.
    """
    package = Path(onnxruntime.__file__).parent
    header = next(iter(package.rglob("onnxruntime_c_api.h")), None) or _cached_header()
    runtime = next(iter(package.glob("capi/libonnxruntime.so.*")), None)
    if header is None or runtime is None:
        leave_out(f"{what} left out: no {'headers' if runtime else 'libonnxruntime.so'} of ONNX Runtime")
    linked = folder / "libonnxruntime.so.1"
    linked.symlink_to(runtime)
    return header.parent, linked


def _cached_header() -> Path | None:
    cached = (folders.cache() / "seqexport" / "headers").glob("onnxruntime-*/include/onnxruntime_c_api.h")
    return min(cached, default=None)
