"""A graph of one node of our ops whose sizes are all known, as in an exported model, and what runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from seqexport.plugins.ops import OPS
from tests.exporter.reading import open_session
from tests.ops.conformance import ONNX_TYPE, Values


def model_of(name: str, values: Values, attributes: Mapping[str, Any], opset: int = 20) -> ir.Model:
    op, given = OPS[name], {key: value for key, value in values.items() if value is not None}
    inputs = {
        key: ir.Value(name=key, shape=ir.Shape(value.shape), type=ir.TensorType(ir.DataType(ONNX_TYPE[value.dtype])))
        for key, value in given.items()
    }
    node = ir.node(
        name,
        [inputs.get(key) for key in op.input_names],
        {**op.attributes, **attributes},
        domain="seqexport",
        num_outputs=len(op.outputs),
    )
    for output, key in zip(node.outputs, op.outputs, strict=True):
        output.name, output.type = key, inputs["past" if key == "present" else "x"].type
    opsets = {"": opset, "seqexport": 1}
    graph = ir.Graph([*inputs.values()], node.outputs, nodes=[node], opset_imports=opsets, name="g")
    return ir.Model(graph, ir_version=10)


def in_onnxruntime(model: ir.Model, values: Values) -> list[Tensor]:
    return _run(open_session(model).run, values)


def in_reference_evaluator(model: ir.Model, values: Values) -> list[Tensor]:
    """ONNX's own, which computes as the standard says."""
    return _run(ReferenceEvaluator(ir.to_proto(model)).run, values)


def _run(run: Callable[..., Any], values: Values) -> list[Tensor]:
    outputs = run(None, {name: value.numpy() for name, value in values.items() if value is not None})
    return [torch.from_numpy(np.ascontiguousarray(each)) for each in outputs]
