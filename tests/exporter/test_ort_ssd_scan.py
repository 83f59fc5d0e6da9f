"""Target ``ort``: SsdScan as LinearAttention, against float64 as the function body is."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from seqexport.exporter.passes.ort import lower_for_ort
from seqexport.plugins.ops import OPS
from tests.exporter.one_op import in_onnxruntime, model_of
from tests.ops.conformance import Values, assert_as_accurate_as_torch, run_float64, run_reference
from tests.ops.test_ssd_scan import make

OP, ATTRIBUTES = OPS["SsdScan"], {"dt_softplus": 1, "dt_min": 0.05, "dt_max": 0.0}


def lowered(values: Values) -> ir.Model:
    model = model_of(OP.name, values, ATTRIBUTES)
    lower_for_ort(model)
    return model


def run_lowered(values: Values) -> Sequence[Tensor]:
    model = lowered(values)
    assert [each.domain for each in model.graph] == ["seqexport.ort"]
    return in_onnxruntime(model, values)


@pytest.mark.parametrize(
    ("length", "sizes", "dtype"),
    [
        (1, (3, 24, 16, 3), torch.float32),
        (500, (4, 7, 16, 2), torch.float32),
        (70, (2, 80, 128, 1), torch.float32),
        (70, (2, 64, 100, 1), torch.float16),
    ],
)
def test_is_as_accurate_as_pytorch(length: int, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    H, P, N, G = sizes
    values = make(batch=3, length=length, H=H, P=P, N=N, G=G, dtype=dtype, seq_lens=[length, 1, (length + 1) // 2])
    true, torchs = run_float64(OP, values, ATTRIBUTES), run_reference(OP, values, ATTRIBUTES)
    assert_as_accurate_as_torch(run_lowered(values), torchs, true, dtype)


def test_more_states_than_it_sums_closely_keep_the_body() -> None:
    assert [each.domain for each in lowered(make(N=129)).graph] == ["seqexport"]
