"""Routers of experts become TopKRouter on [batch, seq, E]; that they choose as before is in test_families.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from seqexport.exporter.passes.fuse_router import fuse_router
from seqexport.exporter.targets import FUSIONS
from tests.exporter.conftest import Traced

SIGMOID = {"score": "sigmoid", "normalised": 1, "k": 3}
ROUTERS: dict[str, dict[str, Any]] = {
    "mixtral": {"score": "softmax", "normalised": 1, "k": 2, "scale": 1.0},
    "jamba": {"score": "softmax", "normalised": 0, "k": 2, "scale": 1.0},
    "qwen2_moe": {"score": "softmax", "normalised": 0, "k": 3, "scale": 1.0},
    "granite_hybrid": {"score": "softmax", "normalised": 1, "k": 2, "scale": 1.0},
    "nemotron_h": {**SIGMOID, "scale": 2.5, "epsilon": pytest.approx(1e-20), "groups": 1, "kept_groups": 1},
    "nemotron_h_groups": {**SIGMOID, "scale": 2.5, "epsilon": pytest.approx(1e-20), "groups": 4, "kept_groups": 2},
    "lfm2_moe": {**SIGMOID, "scale": 1.5, "epsilon": pytest.approx(1e-6)},
}
BIASED = {"nemotron_h", "nemotron_h_groups", "lfm2_moe"}
LEFT = {"TopK", "GatherElements", "Softmax", "ScatterElements", "Where"}


@pytest.mark.parametrize("family", ROUTERS)
def test_a_familys_router(family: str, traced: Traced) -> None:
    _, graph = traced(family, "float32")
    graph = graph.clone()
    for fuse in FUSIONS:
        fuse(graph)
    routers = [node for node in graph.graph if node.op_type == "TopKRouter"]
    experts = [node for node in graph.graph if node.op_type == "Experts"]
    assert len(routers) == len(experts) > 0
    assert not LEFT & {node.op_type for node in graph.graph}
    for router, node in zip(routers, experts, strict=True):
        found = {name: attribute.value for name, attribute in router.attributes.items()}
        assert {name: found.get(name) for name in ROUTERS[family]} == ROUTERS[family]
        assert (len(router.inputs) > 1 and router.inputs[1] is not None) == (family in BIASED)
        assert list(router.outputs) == list(node.inputs[1:3])
        for value in (router.inputs[0], node.inputs[0], node.outputs[0]):
            assert value is not None and value.shape is not None
            assert [str(size) for size in value.shape[:2]] == ["batch", "seq"]
        made_by = router.inputs[0].producer() if router.inputs[0] is not None else None
        assert made_by is not None and made_by.op_type == "Linear"


TEXT = """<ir_version: 10, opset_import: ["" : 20, "seqexport" : 1]>
g (float[t,6] logits, float[1,t,4] x, float[6,8,4] up, float[6,4,4] down) => (float[1,t,4] y)
<int64[1] k = {{2}}, int64[1] last = {{-1}}, int64[1] front = {{0}}, float[6] bias = {{1.0, 0.5, 0.0, 0.5, 1.0, 0.0}},
 float two = {{2.0}}, float minus = {{-2.0}}, float[6] each = {{1.0, 2.0, 1.0, 2.0, 1.0, 2.0}}>
{{
    {ops}
    row = Unsqueeze(index, front)
    chosen = Cast <to = 6> (row)
    weight = Unsqueeze(picked, front)
    y = seqexport.Experts(x, chosen, weight, up, down)
}}"""
FUSED = {
    "softmax": ("p = Softmax(logits) picked, index = TopK(p, k)", {"score": "softmax", "normalised": 0}),
    "sigmoid, scaled in front": (
        "p = Sigmoid(logits) v, index = TopK(p, k) picked = Mul(two, v)",
        {"score": "sigmoid", "scale": 2.0},
    ),
    "of the chosen alone": (
        "v, index = TopK(logits, k) picked = Softmax(v)",
        {"score": "softmax", "normalised": 1},
    ),
    "biased": (
        "p = Sigmoid(logits) r = Add(bias, p) v, index = TopK(r, k) picked = GatherElements <axis = 1> (p, index)",
        {"score": "sigmoid", "normalised": 0},
    ),
}
STAYS = {
    "the smallest": "p = Softmax(logits) picked, index = TopK <largest = 0> (p, k)",
    "a softmax over tokens": "p = Softmax <axis = 0> (logits) picked, index = TopK(p, k)",
    "weights that are biased": "p = Sigmoid(logits) r = Add(bias, p) picked, index = TopK(r, k)",
    "weights of another score": (
        "p = Sigmoid(logits) q = Softmax(logits) v, index = TopK(p, k) picked = GatherElements <axis = 1> (q, index)"
    ),
    "over another sum": (
        "p = Sigmoid(logits) v, index = TopK(p, k) s = ReduceSum <keepdims = 1> (p, last) picked = Div(v, s)"
    ),
    "scaled below zero": "p = Sigmoid(logits) v, index = TopK(p, k) picked = Mul(v, minus)",
    "each expert by its own": "p = Sigmoid(logits) r = Mul(p, each) picked, index = TopK(r, k)",
    "one bias for all": (
        "p = Sigmoid(logits) r = Add(two, p) v, index = TopK(r, k) picked = GatherElements <axis = 1> (p, index)"
    ),
    "another activation": "p = Tanh(logits) picked, index = TopK(p, k)",
}


def router(ops: str) -> ir.Model:
    proto = onnx.parser.parse_model(TEXT.format(ops=ops))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.dtype is None:
                value.dtype = ir.DataType.FLOAT
    return model


@pytest.mark.parametrize("form", FUSED)
def test_a_form_that_is_one_node(form: str) -> None:
    ops, expected = FUSED[form]
    model = router(ops)
    fuse_router(model)
    (node,) = [node for node in model.graph if node.op_type == "TopKRouter"]
    found = {name: attribute.value for name, attribute in node.attributes.items()}
    assert {name: found[name] for name in expected} == expected and found["k"] == 2
    bias = node.inputs[1] if len(node.inputs) > 1 else None
    assert (bias is not None) == (form == "biased")
    if bias is not None and bias.const_value is not None:
        np.testing.assert_array_equal(bias.const_value.numpy(), [1.0, 0.5, 0.0, 0.5, 1.0, 0.0])


@pytest.mark.parametrize("form", STAYS)
def test_a_form_that_stays(form: str) -> None:
    model = router(STAYS[form])
    before = [node.op_type for node in model.graph]
    fuse_router(model)
    assert [node.op_type for node in model.graph] == before
