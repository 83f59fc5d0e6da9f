"""Sums over many places are as exact in ONNX Runtime as in PyTorch, whatever their axes and sizes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from seqexport.exporter.passes.add_in_levels import add_in_levels

CASES = {
    "tokens": ("B,n,8", [1], (2, 3137, 8)),
    "a single token": ("B,n,8", [1], (2, 1, 8)),
    "an empty batch": ("B,n,8", [1], (0, 5, 8)),
    "pixels, channels last": ("B,h,w,8", [1, 2], (1, 57, 55, 8)),
    "pixels, channels first": ("B,8,h,w", [2, 3], (1, 8, 57, 55)),
    "by a negative axis": ("B,3,n,8", [-2], (1, 3, 300, 8)),
    "everything": ("B,n", [0, 1], (3, 700)),
    "a known size": ("B,196,8", [1], (2, 196, 8)),
}


def graph(op_type: str, shape: str, axes: list[int], keepdims: int) -> ir.Model:
    rank = shape.count(",") + 1
    kept = rank if keepdims else rank - len(axes)
    names = ",".join(f"d{index}" for index in range(kept))
    return ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[{shape}] x) => (float[{names}] y) <int64[{len(axes)}] axes = {{{",".join(map(str, axes))}}}>
        {{ y = {op_type} <keepdims = {keepdims}> (x, axes) }}"""
    )


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceSum"])
@pytest.mark.parametrize("case", CASES)
def test_as_exact_as_pytorch(case: str, op_type: str, keepdims: int) -> None:
    shape, axes, size = CASES[case]
    model = graph(op_type, shape, axes, keepdims)
    add_in_levels(model)
    assert Counter(node.op_type for node in model.graph)["ReduceSum"] == 3
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    x = (random.standard_normal(size) + 0.3).astype(np.float32)
    (y,) = session.run(None, {"x": x})
    tensor = torch.from_numpy(x)
    reduce = torch.mean if op_type == "ReduceMean" else torch.sum
    own, true = (reduce(each, axes, keepdim=bool(keepdims)).numpy() for each in (tensor, tensor.double()))
    assert y.shape == true.shape
    allowed = 2 * max(np.linalg.norm(own - true), 2**-24 * np.linalg.norm(true))
    assert np.linalg.norm(y - true) <= allowed


@pytest.mark.parametrize(
    ("shape", "axes"),
    [("B,n,2048", [2]), ("B,8,7,7", [2, 3]), ("B,4,8", [1]), ("B,n,8", [0, 2])],
    ids=["a norm's", "a known map", "few", "apart"],
)
def test_what_stays(shape: str, axes: list[int]) -> None:
    model = graph("ReduceMean", shape, axes, 1)
    add_in_levels(model)
    assert [node.op_type for node in model.graph] == ["ReduceMean"]
