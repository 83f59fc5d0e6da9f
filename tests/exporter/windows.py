"""Windows of wider tensors cut out again, for runtimes that have nothing but the function bodies of our ops."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from seqexport.plugins.ops import DOMAIN, OPS


def cut_out(model: ir.Model) -> None:
    """What ``read_in_place`` has put into attributes becomes Slice and Reshape."""
    for node in list(model.graph):
        if node.domain != DOMAIN:
            continue
        op = OPS[node.op_type]
        stated = {size for sizes in op.windows.values() for size in sizes} & node.attributes.keys()
        lengths = {size: node.attributes.pop(size).as_int() for size in stated}
        for index, name in enumerate(op.input_names):
            if at := node.attributes.pop(f"{name}_at", None):
                _cut(model.graph, node, index, at.as_int(), [lengths[size] for size in op.windows[name]])


def _cut(graph: ir.Graph, place: ir.Node, index: int, first: int, sizes: list[int]) -> None:
    name = f"{place.outputs[0].name}_{index}"
    numbers = {"first": [first], "end": [first + math.prod(sizes)], "axis": [2], "shape": [0, 0, *sizes]}
    values = [ir.Value(name=f"{name}_{key}", const_value=ir.tensor(np.array(x))) for key, x in numbers.items()]
    for value in values:
        graph.register_initializer(value)
    part = ir.node("Slice", [place.inputs[index], *values[:3]])
    whole = ir.node("Reshape", [part.outputs[0], values[3]])
    part.outputs[0].name, whole.outputs[0].name = f"{name}_part", f"{name}_whole"
    graph.insert_before(place, [part, whole])
    place.replace_input_with(index, whole.outputs[0])
