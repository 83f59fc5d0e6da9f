"""Every op of the library at the ends of its dtype, on the CPU and on CUDA."""

from __future__ import annotations

import pytest
import torch

from tests.onnxruntime.library_ops import LibraryOps
from tests.ops import extremes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", extremes.LENGTHS)
@pytest.mark.parametrize("case", extremes.CASES)
def test_gives_what_pytorch_gives(ops: LibraryOps, case: str, length: int, dtype: torch.dtype) -> None:
    extremes.check(ops.run, case, dtype, length)
