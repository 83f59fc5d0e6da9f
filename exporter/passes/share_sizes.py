"""A size that a call chooses is read from one input, whichever of those that have it PyTorch happened to pick.

Each copy of a layer would otherwise read it from a state of its own.
"""

from __future__ import annotations

import onnx_ir as ir


def share_sizes(model: ir.Model) -> None:
    """The input of the fewest axes that has it, and the first of these."""
    sources: dict[str, tuple[ir.Value, int]] = {}
    for value in sorted(model.graph.inputs, key=lambda value: len(value.shape or ())):
        for index, axis in enumerate(value.shape or ()):
            if not isinstance(axis, int):
                sources.setdefault(str(axis.value), (value, index))
    for node in model.graph:
        read = _axis_read(node)
        if read in sources:
            source, index = sources[read]
            node.replace_input_with(0, source)
            node.attributes["start"] = ir.AttrInt64("start", index)
            node.attributes["end"] = ir.AttrInt64("end", index + 1)


def _axis_read(node: ir.Node) -> str | None:
    """The name of the one axis of an input that a Shape gives."""
    value = node.inputs[0] if node.domain == "" and node.op_type == "Shape" else None
    start, end = node.attributes.get("start"), node.attributes.get("end")
    if value is None or not value.is_graph_input() or value.shape is None or start is None or end is None:
        return None
    axis = value.shape[start.as_int()]
    return str(axis.value) if end.as_int() == start.as_int() + 1 and not isinstance(axis, int) else None
