"""Parts of a device's memory, copied and cleared: by CUDA's runtime, since ONNX Runtime has no such calls."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

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
    _call("cudaMemcpy", ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size), ANY_WAY)


def clear(address: int, size: int) -> None:
    """Make ``size`` bytes of the device zeros; done when this returns.

    Raises:
        UserError: CUDA failed.
    """
    _call("cudaMemset", ctypes.c_void_p(address), 0, ctypes.c_size_t(size))


def _call(name: str, *arguments: Any) -> None:
    """And wait for it: copies within the device, and from pages that are not locked, go on after the call."""
    cuda = runtime()
    assert cuda is not None
    if code := getattr(cuda, name)(*arguments) or cuda.cudaStreamSynchronize(None):
        raise UserError(f"CUDA failed in {name}: error {code}; close other programs on the GPU")
