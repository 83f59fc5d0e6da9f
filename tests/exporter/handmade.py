"""Small graphs written by hand, and what a pass makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from seqexport.exporter.passes.add_bodies import add_bodies
from tests.exporter.windows import cut_out

Array = NDArray[Any]
SIZES = {"batch": 2, "seq": 5, "room": 9}
X = "float[batch, seq, 6] x"
Y = "float[batch, seq, 6] y"


def model(inputs: str, outputs: str, body: str, **constants: Array) -> ir.Model:
    """A graph in ONNX's own notation, with shapes and types of everything inside."""
    header = '<ir_version: 10, opset_import: ["" : 20, "seqexport" : 1]>'
    proto = onnx.parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{ {body} }}")
    proto.graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in constants.items())
    made = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    for name, x in constants.items():
        made.graph.initializers[name].const_value = ir.Tensor(x, name=name)
    return made


def values(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def answers(graph: ir.Model) -> list[Array]:
    rng = np.random.default_rng(0)
    feeds = {}
    for value in graph.graph.inputs:
        assert value.name is not None and value.shape is not None and value.dtype is not None
        shape = [size if isinstance(size, int) else SIZES[str(size)] for size in value.shape]
        floats = rng.normal(size=shape)
        feeds[value.name] = (np.abs(floats) * 2 if value.dtype.is_integer() else floats).astype(value.dtype.numpy())
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def fused(graph: ir.Model, *passes: Callable[[ir.Model], None]) -> Counter[str]:
    """What kinds of nodes there are afterwards, where they compute what those before did."""
    names = [value.name for value in graph.graph.outputs]
    whole = graph.clone()
    add_bodies(whole)
    expected = answers(whole)
    for each in passes:
        each(graph)
    assert [value.name for value in graph.graph.outputs] == names
    left = graph.clone()
    cut_out(left)
    add_bodies(left)
    for ours, theirs in zip(answers(left), expected, strict=True):
        assert ours.dtype == theirs.dtype
        tolerance = 1e-5 if ours.dtype == np.float32 else 4e-3
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=tolerance, atol=tolerance)
    return Counter(node.op_type for node in graph.graph)


def node_of(graph: ir.Model, op: str) -> ir.Node:
    (node,) = [node for node in graph.graph if node.op_type == op]
    return node


def names(node: ir.Node) -> list[str | None]:
    return [value.name if value is not None else None for value in node.inputs]
