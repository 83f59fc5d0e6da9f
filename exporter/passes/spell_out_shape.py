"""Target ``tensorrt``: TensorRT 8.x reads Shape but ignores its ``start`` and ``end``, so they become a Gather."""

from __future__ import annotations

import onnx_ir as ir

from seqexport.exporter.passes.parameters import new_initializer


def spell_out_shape(model: ir.Model) -> None:
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Shape" and node.domain == "" else None
        if source is None or source.shape is None or not {"start", "end"} & node.attributes.keys():
            continue
        rank = len(source.shape)
        start, end = (_bound(node, name, default, rank) for name, default in (("start", 0), ("end", rank)))
        indices = ir.tensor(list(range(start, end)), ir.DataType.INT64)
        axes = new_initializer(model.graph, f"{node.outputs[0].name}_axes", indices)
        whole = ir.node("Shape", [source])
        part = ir.node("Gather", [whole.outputs[0], axes], {"axis": 0})
        whole.outputs[0].name = f"{node.outputs[0].name}_whole"
        model.graph.insert_after(node, [whole, part])
        part.outputs[0].shape, part.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        ir.convenience.replace_all_uses_with(node.outputs[0], part.outputs[0])
        model.graph.remove(node, safe=True)


def _bound(node: ir.Node, name: str, default: int, rank: int) -> int:
    value = node.attributes[name].as_int() if name in node.attributes else default
    return min(max(value + rank if value < 0 else value, 0), rank)
