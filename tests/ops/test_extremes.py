"""Every op at the ends of its dtype: function bodies, and kernels on CUDA. The op library: tests/onnxruntime."""

from __future__ import annotations

import pytest
import torch

from tests.ops import extremes
from tests.ops.conformance import BACKENDS, run_onnxruntime

TYPES = {run_onnxruntime: [torch.float32, torch.float16]}
"""Of the backends that do not take all: stock ONNX Runtime's CPU has no bfloat16."""

RUNS = [(run, dtype) for run in BACKENDS for dtype in TYPES.get(run, [torch.float32, torch.float16, torch.bfloat16])]


@pytest.mark.parametrize(("run", "dtype"), RUNS, ids=[f"{run.__name__}-{dtype}" for run, dtype in RUNS])
@pytest.mark.parametrize("length", extremes.LENGTHS)
@pytest.mark.parametrize("case", extremes.CASES)
def test_gives_what_pytorch_gives(run: extremes.Run, case: str, length: int, dtype: torch.dtype) -> None:
    extremes.check(run, case, dtype, length)
