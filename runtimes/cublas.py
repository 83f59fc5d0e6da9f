"""cuBLASLt, by which our CUDA libraries compute prompts. It may be a pip package, where the loader does not look."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path

MAJORS = (13, 12, 11)
PLACES = "on the library path or in pip's packages"
INSTALL = "pip install nvidia-cublas (CUDA 13) or nvidia-cublas-cu12, or apt install libcublas-<CUDA version>"


def pip_folders() -> list[Path]:
    """The folders with the libraries of pip's nvidia-* packages."""
    spec = importlib.util.find_spec("nvidia")
    roots = (spec.submodule_search_locations or []) if spec else []
    return sorted(folder for root in roots for folder in Path(root).glob("*/lib"))


@functools.cache
def load(cuda_major: int) -> str | None:
    """Load cuBLASLt, that of a CUDA version if there is a choice; gives where it was found, None where nowhere.

    Our libraries then find it by its name.
    """
    names = [f"libcublasLt.so.{major}" for major in sorted(MAJORS, key=lambda major: major != cuda_major)]
    for place in [*names, *(str(folder / name) for name in names for folder in pip_folders())]:
        try:
            ctypes.CDLL(place)
        except OSError:
            continue
        return place
    return None
