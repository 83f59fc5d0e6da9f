"""The kernels through their C interface."""

from pathlib import Path

import pytest
import torch

from seqexport.plugins import library
from seqexport.plugins.kernels.c_api import Kernels

WITHOUT_GPU = "test_c_api.py"
collect_ignore = [
    file.name
    for file in Path(__file__).parent.glob("test_*.py")
    if file.name != WITHOUT_GPU and not torch.cuda.is_available()
]


@pytest.fixture(scope="session")
def kernels(request):
    """The library that ``seqexport plugins build`` made; where there is none, one made from this checkout."""
    built = library.find("kernels")
    return Kernels(built.path if built else request.getfixturevalue("native_library")("kernels"))
