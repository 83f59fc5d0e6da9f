"""Pointwise ops of flattened tokens are taken on three axes, and GELU by a sigmoid: with the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from seqexport.exporter.passes.gelu_by_sigmoid import gelu_by_sigmoid
from seqexport.exporter.passes.unflatten_products import unflatten_products

Floats = NDArray[np.float32]
FLAT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[b,s,4] x, float[b,s,4] z) => (float[{shape}] y)
<int64[2] flat = {{-1, 4}}, float[4] bias = {{1.5, -2.0, 0.25, 3.0}}, float[1,4] row = {{2.0, 1.0, -1.0, 0.5}},
 float two = {{2.0}}, float[3,4] some = {{1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0}}>
{{
    whole = Shape(x)
    a = Reshape(x, flat)
    {ops}
}}"""
RESTORED = {
    "one input": "r = Relu(a) t = Sigmoid(r) v = Reshape(t, whole) y = Neg(v)",
    "constants": "r = Add(a, bias) q = Mul(row, r) t = Pow(q, two) v = Reshape(t, whole) y = Neg(v)",
    "two that are flattened": "c = Reshape(z, flat) r = Sigmoid(a) t = Mul(c, r) v = Reshape(t, whole) y = Neg(v)",
}
STAYS = {
    "read by others too": "y = Sigmoid(a)",
    "another number for each token": "y = Add(a, some)",
    "one that never had three axes": "n = Size(z) m = Cast <to = 1> (n) y = Mul(a, m)",
}


def model(shape: str, ops: str) -> ir.Model:
    proto = onnx.parser.parse_model(FLAT.format(shape=shape, ops=ops))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def run(graph: ir.Model, **inputs: Floats) -> Floats:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), options, ["CPUExecutionProvider"])
    (y,) = session.run(None, inputs)
    return y  # type: ignore[no-any-return]


def kinds(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


def both(shape: str, ops: str, tokens: int = 3) -> tuple[ir.Model, Floats, Floats]:
    """The graph as it is rewritten, and what it gives before and after."""
    random = np.random.default_rng(0)
    x, z = (random.standard_normal((1 if tokens == 3 else 2, tokens, 4), np.float32) for _ in range(2))
    before, after = model(shape, ops), model(shape, ops)
    unflatten_products(after)
    return after, run(before, x=x, z=z), run(after, x=x, z=z)


@pytest.mark.parametrize("case", RESTORED)
def test_nothing_is_reshaped_where_three_axes_come_back(case: str) -> None:
    after, expected, y = both("b,s,4", RESTORED[case], tokens=7)
    assert "Reshape" not in kinds(after)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("case", STAYS)
def test_what_stays_flat_is_flattened_at_the_end(case: str) -> None:
    after, expected, y = both("n,4", STAYS[case])
    assert kinds(after).count("Reshape") == 1
    assert (kinds(after)[-1] == "Reshape") == (case == "read by others too")
    np.testing.assert_array_equal(y, expected)


GELU = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n] x) => (float[n] y)
<float half = {{{half}}}, float cubic = {{0.044715}}, float root = {{0.7978845608}}, float one = {{1.0}}>
{{
    p = Mul(x, x) c = Mul(p, x) d = Mul(c, cubic) e = Add(x, d) u = Mul(e, root)
    t = Tanh(u) b = Add({order}) h = Mul(half, x) y = Mul(h, b)
}}"""


def gelu(dtype: Any, half: float = 0.5, order: str = "t, one") -> ir.Model:
    proto = onnx.parser.parse_model(GELU.format(half=half, order=order))
    for number in proto.graph.initializer:
        number.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(number).astype(dtype), number.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    gelu_by_sigmoid(graph)
    return graph


@pytest.mark.parametrize("order", ["t, one", "one, t"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_gelu_by_a_sigmoid_is_as_exact_as_pytorchs(dtype: Any, order: str) -> None:
    graph = gelu(dtype, order=order)
    assert "Tanh" not in kinds(graph) and kinds(graph).count("Sigmoid") == 1
    x = np.concatenate([np.linspace(-12, 12, 999), [0.0, -0.0, 1e-7, -1e4, 1e4]]).astype(dtype)
    y, tensor = run(graph, x=x).astype(np.float64), torch.from_numpy(x)
    own, true = (F.gelu(each, approximate="tanh").double().numpy() for each in (tensor, tensor.double()))
    assert np.linalg.norm(y - true) <= 2 * np.linalg.norm(own - true)


def test_another_use_of_tanh_stays() -> None:
    graph = gelu(np.float32, half=0.25)
    assert "Tanh" in kinds(graph) and "Sigmoid" not in kinds(graph)
