"""Target ``tensorrt``: parts of a projection are read where they lie, and not split off, which would copy each.

1. A part is cut out of the features of [batch, seq, W] by Split or by Slice, once or again, and its features may be
   arranged into heads or groups.
2. A Split counts where all of its parts are read so. Others are left to ``fuse_linear``, which makes each part a
   projection of its own.
3. An input that the kernels can read so (``Op.windows``) is given the whole tensor; ``<input>_at`` says where in each
   token's features it begins, and an attribute of each of its own sizes how large it is.
"""

from __future__ import annotations

import math

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seqexport.exporter.passes.matching import constant, rank, split_sizes
from seqexport.plugins.ops import DOMAIN, OPS

ARRANGES = ("Reshape", "Squeeze", "Unsqueeze")


def read_in_place(model: ir.Model) -> None:
    for node in model.graph:
        _state_shapes(node)
    for node in list(model.graph):
        if node.domain == DOMAIN:
            _read_in_place(node)
    RemoveUnusedNodesPass()(model)


def _state_shapes(node: ir.Node) -> None:
    """Of the parts that a Split makes, which do not all have theirs."""
    sizes, source = split_sizes(node), node.inputs[0] if node.inputs else None
    for size, part in zip(sizes or (), node.outputs, strict=False):
        if source is not None and source.shape is not None:
            part.shape, part.type = ir.Shape([*source.shape[:-1], size]), source.type


def _read_in_place(node: ir.Node) -> None:  # 3
    op = OPS[node.op_type]
    for index, (name, value) in enumerate(zip(op.input_names, node.inputs, strict=False)):
        whole, at = _whole(value) if value is not None and _is_window(node, index) else (None, 0)
        if value is None or whole is None:
            continue
        sizes = dict(zip(op.windows[name], _features(value) or (), strict=True))
        node.replace_input_with(index, whole)
        for attribute, number in {f"{name}_at": at, **sizes}.items():
            node.attributes[attribute] = ir.AttrInt64(attribute, number)


def _whole(value: ir.Value) -> tuple[ir.Value | None, int]:  # 1
    """The widest tensor [batch, seq, W] that a value is a part of, and where in a token it begins; None if in none."""
    part, at, whole = value, 0, None
    while (node := part.producer()) is not None and node.domain == "" and (source := node.inputs[0]) is not None:
        if _features(source) is None or source.shape is None or not _same_tokens(source, value):
            break
        begin = 0 if node.op_type in ARRANGES and _width(source) == _width(part) else _begin(node, part)
        if begin is None or (node.op_type == "Split" and not all(map(_is_read_in_place, node.outputs))):
            break
        part, at = source, at + begin
        if rank(part) == 3 and _width(part) != _width(value):
            whole = part, at
    return whole or (None, 0)


def _is_read_in_place(part: ir.Value) -> bool:  # 2
    """Whether it is only read as a window, or cut and arranged for such."""
    for use in part.uses():
        is_cut = use.node.op_type in (*ARRANGES, "Split", "Slice") and use.node.domain == "" and use.idx == 0
        is_cut = is_cut and (use.node.op_type != "Slice" or _begin(use.node, use.node.outputs[0]) is not None)
        if not _is_window(*use) and not (is_cut and all(map(_is_read_in_place, use.node.outputs))):
            return False
    return not part.is_graph_output()


def _is_window(node: ir.Node, index: int) -> bool:
    """Whether the node's kernels can read this input as a window of another tensor."""
    op, value = OPS.get(node.op_type) if node.domain == DOMAIN else None, node.inputs[index]
    sizes = _features(value) if value is not None else None
    return op is not None and sizes is not None and len(sizes) == len(op.windows.get(op.input_names[index], ()))


def _begin(node: ir.Node, part: ir.Value) -> int | None:
    """The first feature of what Split or Slice cuts out of [batch, seq, W]."""
    source = node.inputs[0]
    if source is None or rank(source) != 3:
        return None
    if node.op_type == "Split":
        sizes = split_sizes(node)
        return None if sizes is None else sum(sizes[: node.outputs.index(part)])
    if node.op_type == "Slice" and len(node.inputs) > 3:
        start, axes = constant(node.inputs[1]), constant(node.inputs[3])
        step = constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else None
        is_of_features = axes is not None and axes.tolist() in ([-1], [2]) and (step is None or step.tolist() == [1])
        width = _width(source)
        if start is not None and width is not None and is_of_features:
            return int(start[0]) % width if start[0] < 0 else int(start[0])
    return None


def _features(value: ir.Value) -> list[int] | None:
    """The sizes after batch and seq; None unless all are known."""
    if value.shape is None or len(value.shape) < 3:
        return None
    sizes = [size for size in value.shape[2:] if isinstance(size, int)]
    return sizes if len(sizes) == len(value.shape) - 2 else None


def _width(value: ir.Value) -> int | None:
    sizes = _features(value)
    return None if sizes is None else math.prod(sizes)


def _same_tokens(a: ir.Value, b: ir.Value) -> bool:
    return a.shape is not None and b.shape is not None and list(a.shape[:2]) == list(b.shape[:2])
