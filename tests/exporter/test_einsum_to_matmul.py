"""An Einsum that MatMul can do becomes one, with the same numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from seqexport.exporter.passes.einsum_to_matmul import einsum_to_matmul

SIZES = {"b": 2, "k": 4, "d": 5, "l": 7, "c": 3, "r": 6}


def graph(equation: str) -> ir.Model:
    first, second, result = equation.replace("->", ",").split(",")
    shapes = [",".join(letters) for letters in (first, second, result)]
    return ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[{shapes[0]}] x, float[{shapes[1]}] w) => (float[{shapes[2]}] y)
        {{ y = Einsum <equation = "{equation}"> (x, w) }}"""
    )


@pytest.mark.parametrize(
    ("equation", "more"),
    [
        ("bkdl,kcd->bkcl", []),
        ("bkrl,kdr->bkdl", []),
        ("bld,cd->blc", ["Transpose"]),
        ("bkld,kcd->bklc", ["Transpose"]),
        ("bdkl,kcd->bkcl", ["Transpose"]),
        ("bkdl,bcd->bkcl", ["Unsqueeze"]),
        ("bd,dl->lb", ["Transpose", "Transpose"]),
    ],
)
def test_the_same_numbers(equation: str, more: list[str]) -> None:
    model = graph(equation)
    einsum_to_matmul(model)
    assert Counter(node.op_type for node in model.graph) == Counter(["MatMul", *more])
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    x, w = (
        random.standard_normal([SIZES[letter] for letter in letters]).astype(np.float32)
        for letters in equation.split("->")[0].split(",")
    )
    np.testing.assert_allclose(session.run(None, {"x": x, "w": w})[0], np.einsum(equation, x, w), atol=1e-5)


@pytest.mark.parametrize(
    "equation", ["bkd,kd->bk", "bd,bl->bdl", "bkd,cr->bkdc", "bkdl,kd->bkl", "bkd,bkd->b", "bd,bd->bd"]
)
def test_what_stays(equation: str) -> None:
    model = graph(equation)
    einsum_to_matmul(model)
    assert [node.op_type for node in model.graph] == ["Einsum"]
