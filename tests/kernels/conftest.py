"""The kernels through their C interface."""

import pytest
import torch

from seqexport.plugins import library
from seqexport.plugins.kernels.c_api import Kernels

collect_ignore_glob = [] if torch.cuda.is_available() else ["test_[!c]*.py", "test_causal_*.py"]


@pytest.fixture(scope="session")
def kernels(request):
    """The library that ``seqexport plugins build`` made; where there is none, one made from this checkout."""
    built = library.find("kernels")
    return Kernels(built.path if built else request.getfixturevalue("native_library")("kernels"))
