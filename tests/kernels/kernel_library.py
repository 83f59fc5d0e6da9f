"""Finds the kernel library and its ctypes binding.

SEQEXPORT_KERNELS names the library; otherwise plugins/kernels/build and build/kernels are looked at.
"""

import functools
import importlib.util
import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "plugins" / "kernels"


@functools.cache
def load_binding():
    spec = importlib.util.spec_from_file_location("seqexport_kernels_c_api", KERNELS / "c_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def library_path() -> Path | None:
    candidates = [KERNELS / "build", ROOT / "build" / "kernels"]
    paths = [Path(os.environ["SEQEXPORT_KERNELS"])] if "SEQEXPORT_KERNELS" in os.environ else []
    paths += [folder / "libseqexport_kernels.so" for folder in candidates]
    return next((path for path in paths if path.is_file()), None)
