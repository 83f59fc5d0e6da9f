"""Target ``tensorrt``: the graph in opset 17, the newest that TensorRT 8.6 reads.

Its parser takes later nodes without a word and misreads them: a ReduceMean-18 becomes the mean over every axis.

1. Reduce*-18's axes become an attribute.
2. Split-18's ``num_outputs`` goes: equal parts are what a Split without sizes means.
3. Gelu-20 is spelled out in float32, in which PyTorch computes it.

A graph with another op that opset 17 lacks keeps its opset, for TensorRT 10 and later.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx.defs
import onnx_ir as ir
from onnx_ir.tape import Tape

from seqexport.exporter.passes.parameters import float_scalar

OPSET = 17


def to_opset_17(model: ir.Model) -> None:
    nodes = [node for node in model.graph.all_nodes() if node.domain == ""]
    if not all(map(_lowerable, nodes)):
        return
    for node in nodes:
        lower = _axes_to_attribute if _takes_axes(node) else LOWERINGS.get(node.op_type)
        if lower is not None:
            lower(node)
    model.graph.opset_imports[""] = OPSET


def _lowerable(node: ir.Node) -> bool:
    if _takes_axes(node):
        return node.inputs[1] is None or node.inputs[1].const_value is not None
    return node.op_type in LOWERINGS or _known(node.op_type)


def _takes_axes(node: ir.Node) -> bool:
    """As an input, which only ReduceSum's have been since opset 13."""
    return node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.inputs) > 1


def _known(op_type: str) -> bool:
    try:
        onnx.defs.get_schema(op_type, OPSET)
    except onnx.defs.SchemaError:
        return False
    return True


def _axes_to_attribute(node: ir.Node) -> None:
    axes = node.inputs[1]
    if axes is not None and axes.const_value is not None:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes.const_value.numpy().tolist())
    node.resize_inputs(1)
    node.attributes.pop("noop_with_empty_axes", None)


def _equal_parts(node: ir.Node) -> None:
    node.attributes.pop("num_outputs", None)


def _spell_out_gelu(node: ir.Node) -> None:
    """Hendrycks & Gimpel 2016: x times the normal distribution function, or its approximation by tanh."""
    (x,) = node.inputs
    graph, tape = node.graph, Tape()
    assert x is not None and x.dtype is not None and graph is not None

    def scalar(value: float, name: str) -> ir.Value:
        return float_scalar(graph, f"{node.outputs[0].name}_{name}", value)

    def op(kind: str, *inputs: ir.Value) -> ir.Value:
        return tape.op(kind, inputs)

    wide = tape.op("Cast", [x], {"to": int(ir.DataType.FLOAT)})
    approximate = node.attributes.get("approximate")
    if approximate is not None and approximate.as_string() == "tanh":
        cube = op("Mul", op("Mul", wide, wide), wide)
        inner = op("Add", wide, op("Mul", cube, scalar(0.044715, "cubic")))
        bell = op("Tanh", op("Mul", inner, scalar(math.sqrt(2 / math.pi), "root")))
    else:
        bell = op("Erf", op("Mul", wide, scalar(math.sqrt(0.5), "root")))
    half = op("Mul", wide, scalar(0.5, "half"))
    y = tape.op("Cast", [op("Mul", half, op("Add", bell, scalar(1.0, "one")))], {"to": int(x.dtype)})
    _replace(node, tape, y)


def _replace(node: ir.Node, tape: Tape, y: ir.Value) -> None:
    graph, old = node.graph, node.outputs[0]
    assert graph is not None
    graph.insert_after(node, tape.nodes)
    for index, made in enumerate(tape.nodes):
        made.outputs[0].name = f"{old.name}_{index}"
        made.outputs[0].shape, made.outputs[0].dtype = old.shape, ir.DataType.FLOAT
    y.type = old.type
    ir.convenience.replace_all_uses_with(old, y, replace_graph_outputs=True)
    graph.remove(node, safe=True)


LOWERINGS: dict[str, Callable[[ir.Node], None]] = {"Split": _equal_parts, "Gelu": _spell_out_gelu}
