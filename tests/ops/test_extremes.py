"""Every op at the ends of its dtype: function bodies, and kernels on CUDA. The op library: tests/onnxruntime."""

from __future__ import annotations

import pytest
import torch

from tests.ops import extremes
from tests.ops.conformance import BACKENDS, ONNX_TYPE, run_onnxruntime


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", extremes.LENGTHS)
@pytest.mark.parametrize("case", extremes.CASES)
@pytest.mark.parametrize("run", BACKENDS)
def test_gives_what_pytorch_gives(run: extremes.Run, case: str, length: int, dtype: torch.dtype) -> None:
    if run is run_onnxruntime and dtype not in ONNX_TYPE:
        return  # stock ONNX Runtime's CPU has no bfloat16
    extremes.check(run, case, dtype, length)
