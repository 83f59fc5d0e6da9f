"""Copies of parts of a device's memory by the CUDA runtime that ONNX Runtime loaded, which has no call for them."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from seqexport.plugins.errors import UserError

MAPS = Path("/proc/self/maps")
ANY_WAY = 4
"""cudaMemcpyDefault: addresses say which of them are the device's."""


@cache
def runtime() -> ctypes.CDLL | None:
    """The CUDA runtime of this process; None where there is none."""
    words = (line.split(maxsplit=5) for line in MAPS.read_text().splitlines()) if MAPS.exists() else ()
    files = {word[5] for word in words if len(word) == 6 and Path(word[5]).name.startswith("libcudart.so")}
    return ctypes.CDLL(min(files)) if files else None


def copy(to: int, source: int, size: int) -> None:
    """``size`` bytes between two addresses, of the host or the device; done when this returns.

    Raises:
        UserError: CUDA failed.
    """
    cuda = runtime()
    assert cuda is not None
    code = cuda.cudaMemcpy(ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size), ANY_WAY)
    code = code or cuda.cudaStreamSynchronize(None)
    if code:
        raise UserError(f"CUDA failed in cudaMemcpy: error {code}; close other programs on the GPU")
