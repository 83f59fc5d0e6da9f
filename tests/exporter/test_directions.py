"""What brings the directions of a vision model into one scan, and back onto the map, moves whole rows of channels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from seqexport.exporter.passes.cancel_transposes import cancel_transposes
from seqexport.exporter.passes.matching import permutation

K, D, N = 4, 6, 3
STEP = ", ".join(str(number % 7 - 3) for number in range(K * D * N))
INTO = f"""<ir_version: 10, opset_import: ["" : 20]>
g (float[B,{K},{N},L] low, float[B,{K},{D},L] seen) => (float[B,L,{K * D}] x, float[B,L,{K * D}] dt)
<float[{K},{D},{N}] step = {{{STEP}}}, int64[3] whole = {{0, {K * D}, -1}}, float[B,{K},{D},L] product,
 float[B,{K * D},L] joined, float[B,{K * D},L] wide> {{
  product = MatMul (step, low)
  joined = Reshape (product, whole)
  dt = Transpose <perm = [0, 2, 1]> (joined)
  wide = Reshape (seen, whole)
  x = Transpose <perm = [0, 2, 1]> (wide)
}}"""
BACK = f"""<ir_version: 10, opset_import: ["" : 20, "seqexport" : 1]>
g (float[B,L,{K * D}] given, int64[1] batch, int64[1] height, int64[1] width) => (float[B,H,W,{D}] y)
<int64[4] parts = {{0, {K}, {D}, -1}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}},
 int64[1] four = {{4}}, int64[1] last = {{-1}}, int64[1] least = {{-9223372036854775807}}, int64[1] channels = {{{D}}},
 int64 row = {{0}}, int64 column = {{1}}, int64[3] line = {{0, {D}, -1}},
 float[B,L,{K * D}] scanned, float[B,{K * D},L] major, float[B,{K},{D},L] parted, float[B,2,{D},L] there,
 float[B,2,{D},L] back, float[B,2,{D},L] turned, float[B,2,{D},L] both, float[B,{D},L] by_rows,
 float[B,{D},L] by_columns, float[B,{D},W,H] columns, float[B,{D},H,W] upright, float[B,{D},L] across,
 float[B,{D},L] summed, float[B,L,{D}] tokens> {{
  scanned = seqexport.Identity (given)
  major = Transpose <perm = [0, 2, 1]> (scanned)
  parted = Reshape (major, parts)
  there = Slice (parted, zero, two, one, one)
  back = Slice (parted, two, four, one, one)
  turned = Slice (back, last, least, last, last)
  both = Add (there, turned)
  by_rows = Gather <axis = 1> (both, row)
  by_columns = Gather <axis = 1> (both, column)
  on_columns = Concat <axis = 0> (batch, channels, width, height)
  columns = Reshape (by_columns, on_columns)
  upright = Transpose <perm = [0, 1, 3, 2]> (columns)
  across = Reshape (upright, line)
  summed = Add (by_rows, across)
  tokens = Transpose <perm = [0, 2, 1]> (summed)
  on_map = Concat <axis = 0> (batch, height, width, channels)
  y = Reshape (tokens, on_map)
}}
<domain: "seqexport", opset_import: ["" : 20]>
Identity (x) => (y) {{ y = Identity (x) }}"""


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def moved(model: ir.Model) -> Iterator[list[int]]:
    """The permutations of what a call computes, that take channels from their place at the end or put them there."""
    for node in model.graph:
        perm = permutation(node.outputs[0])
        if perm is not None and perm[-1] != len(perm) - 1 and not node.inputs[0].is_initializer():  # type: ignore[union-attr]
            yield perm


def test_into_a_scan() -> None:
    random = np.random.default_rng(0)
    feeds = {
        "low": random.standard_normal((2, K, N, 10)).astype(np.float32),
        "seen": random.standard_normal((2, K, D, 10)).astype(np.float32),
    }
    model = ir.from_onnx_text(INTO)
    before = run(model, feeds)
    cancel_transposes(model)
    for ours, true in zip(run(model, feeds), before, strict=True):
        np.testing.assert_allclose(ours, true, atol=1e-6)
    assert sorted(moved(model)) == [[0, 1, 3, 2], [0, 3, 1, 2]]  # of the narrow input of a product, and of an input


def test_a_flip_of_tokens_needs_no_transposes() -> None:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["" : 20]>
    g (float[B,L,6] given) => (float[B,L,6] y)
    <int64[1] last = {-1}, int64[1] least = {-9223372036854775807},
     float[B,6,L] major, float[B,6,L] turned> {
      major = Transpose <perm = [0, 2, 1]> (given)
      turned = Slice (major, last, least, last, last)
      y = Transpose <perm = [0, 2, 1]> (turned)
    }""")
    given = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
    cancel_transposes(model)
    assert [node.op_type for node in model.graph] == ["Slice"]
    np.testing.assert_array_equal(run(model, {"given": given})[0], given[:, ::-1])


KNOWN = (
    BACK.replace("int64[1] four", f"int64[4] on_columns = {{0, {D}, 3, 5}}, int64[1] four")
    .replace("  on_columns = Concat <axis = 0> (batch, channels, width, height)\n", "")
    .replace(f"float[B,{D},W,H] columns, float[B,{D},H,W]", f"float[B,{D},3,5] columns, float[B,{D},5,3]")
)
"""A map of 5 x 3, as an export has it whose picture has one size."""


@pytest.mark.parametrize(("text", "size"), [(BACK, (5, 3)), (BACK, (1, 4)), (KNOWN, (5, 3))])
def test_back_onto_a_map(text: str, size: tuple[int, int]) -> None:
    height, width = size
    feeds = {"given": np.random.default_rng(0).standard_normal((2, height * width, K * D)).astype(np.float32)}
    feeds |= {name: np.array([n]) for name, n in (("batch", 2), ("height", height), ("width", width))}
    model = ir.from_onnx_text(text)
    (before,) = run(model, feeds)
    cancel_transposes(model)
    np.testing.assert_array_equal(run(model, feeds)[0], before)
    assert not list(moved(model))
