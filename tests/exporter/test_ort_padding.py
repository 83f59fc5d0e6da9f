"""Target ``ort``: padded tokens that are NaN, as ONNX Runtime's float16 attention makes them, reach nothing valid."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from seqexport.exporter.passes.ort import lower_for_ort
from tests.exporter import handmade

LENS = np.array([5, 3], np.int32)
SCAN = (
    "float[batch, seq, 6] x, float[batch, seq, 6] dt, float[batch, seq, 1, 4] B, float[batch, seq, 1, 4] C,"
    " float[batch, seq, 6] z, float[batch, 6, 4] past, int32[batch] lens",
    "float[batch, seq, 6] y, float[batch, 6, 4] present",
    "y, present = seqexport.SelectiveScan <dt_softplus = 1> (x, dt, A, B, C, D, z, bias, past, lens)",
    {"A": -np.abs(handmade.values(6, 4)), "D": handmade.values(6), "bias": handmade.values(6)},
)
SSD = (
    "float[batch, seq, 4, 3] x, float[batch, seq, 4] dt, float[batch, seq, 2, 5] B, float[batch, seq, 2, 5] C,"
    " float[batch, seq, 4, 3] z, float[batch, 4, 3, 5] past, int32[batch] lens",
    "float[batch, seq, 4, 3] y, float[batch, 4, 3, 5] present",
    "y, present = seqexport.SsdScan <dt_softplus = 1> (x, dt, A, B, C, D, z, bias, past, lens)",
    {"A": -np.abs(handmade.values(4)), "D": handmade.values(4), "bias": handmade.values(4)},
)
CONV = (
    "float[batch, seq, 6] x, float[batch, 6, 2] past, int32[batch] lens",
    "float[batch, seq, 6] y, float[batch, 6, 2] present",
    'y, present = seqexport.CausalConv1d <activation = "silu"> (x, weight, bias, past, lens)',
    {"weight": handmade.values(6, 3), "bias": handmade.values(6)},
)


@pytest.mark.parametrize("case", [SCAN, SSD, CONV], ids=["SelectiveScan", "SsdScan", "CausalConv1d"])
@pytest.mark.parametrize("seq", [5, 1])
def test_padded_nan_reaches_nothing_valid(case: Any, seq: int) -> None:
    inputs, outputs, node, constants = case
    model = handmade.model(inputs, outputs, node, **constants)
    lower_for_ort(model)
    assert [each.domain for each in model.graph] == ["seqexport.ort"]
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    lens = np.minimum(LENS, [seq, seq - 1]).astype(np.int32)
    clean = {i.name: _filled(i.shape, seq) for i in session.get_inputs() if i.name != "lens"}
    poisoned = {name: _poisoned(value, lens) if value.shape[1] == seq else value for name, value in clean.items()}
    (y, present), (y_clean, present_clean) = (session.run(None, {**x, "lens": lens}) for x in (poisoned, clean))
    np.testing.assert_array_equal(present, present_clean)
    for row, valid in enumerate(lens):
        np.testing.assert_array_equal(y[row, :valid], y_clean[row, :valid])


def _filled(shape: list[Any], seq: int) -> NDArray[np.float32]:
    return handmade.values(*({"batch": 2, "seq": seq}.get(axis, axis) for axis in shape))


def _poisoned(value: NDArray[np.float32], lens: NDArray[np.int32]) -> NDArray[np.float32]:
    value = value.copy()
    for row, valid in enumerate(lens):
        value[row, valid:] = np.nan
    return value
