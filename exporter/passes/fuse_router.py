"""Target ``tensorrt``: what chooses the experts of each token, between the router's product and Experts, is one node.

1. Softmax or Sigmoid of the logits, and TopK of those, with a bias that chooses and does not weigh.
2. Groups of experts, of which the best are kept: all other experts are -infinity in front of TopK.
3. The scores that TopK gives, or those gathered at its indices; over their sum, with or without an epsilon; scaled.
4. A softmax over the chosen logits alone, which is the normalised softmax over all.

TensorRT 8.6.0 gave other values to the second of two sequences where it compiled these ops in one region, and builds
none of them in float16 for some sizes (seen on an H200). Routers of other forms stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seqexport.exporter.passes.matching import FLOATS, constant, is_constant, made_by, other_input, rank, without_row
from seqexport.exporter.passes.parameters import numbers
from seqexport.plugins.ops import DOMAIN

Attributes = dict[str, int | float | str]
MASK = ("Not", "Reshape", "Expand", "Unsqueeze", "ScatterElements")
"""From which experts are lost back to which groups are kept."""


@dataclass
class Router:
    """``logits`` [tokens, E], ``bias`` float32 [E], and the op's attributes."""

    logits: ir.Value
    bias: ir.Value | None
    attributes: Attributes


@dataclass
class Weights:
    """Of the chosen experts: ``picked`` before they are normalised and scaled."""

    picked: ir.Value | None
    normalised: bool = False
    epsilon: float = 0.0
    scale: float = 1.0


def fuse_router(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.domain != DOMAIN or node.op_type != "Experts":
            continue
        router = _match(node)
        if router is not None:
            _replace(model.graph, node, router)
    RemoveUnusedNodesPass()(model)


def _match(experts: ir.Node) -> Router | None:
    top, weights = _chain(_rows(experts.inputs[1]), "TopK"), _weights(_rows(experts.inputs[2]))
    k = constant(top.inputs[1]) if top is not None else None
    if top is None or k is None or not _is_over_experts(top):
        return None
    router = _of_chosen_logits(top, weights) or _of_all_logits(top, weights)
    if router is None or rank(router.logits) != 2 or router.logits.dtype not in FLOATS:
        return None
    router.attributes |= {"k": int(k.reshape(())), "scale": weights.scale}
    return router


def _of_chosen_logits(top: ir.Node, weights: Weights) -> Router | None:  # 4
    softmax, logits = made_by(weights.picked, "Softmax"), _narrow(top.inputs[0])
    if softmax is None or _narrow(softmax.inputs[0]) is not top.outputs[0] or weights.normalised or logits is None:
        return None
    return Router(logits, None, {"score": "softmax", "normalised": 1}) if _is_last(softmax) else None


def _of_all_logits(top: ir.Node, weights: Weights) -> Router | None:  # 1, 2, 3
    ranked, groups = _kept_groups(_narrow(top.inputs[0]))
    scores, bias = _biased(ranked, _experts(top))
    node = made_by(scores, "Softmax") or made_by(scores, "Sigmoid")
    logits = _narrow(node.inputs[0]) if node is not None else None
    is_of_top = weights.picked is top.outputs[0] and bias is None and not groups
    if node is None or logits is None or not (is_of_top or _is_gathered(weights.picked, scores, top)):
        return None
    if node.op_type == "Softmax" and not _is_last(node):
        return None
    attributes: Attributes = {"score": node.op_type.lower(), "normalised": int(weights.normalised)}
    return Router(logits, bias, attributes | {"epsilon": weights.epsilon} | groups)


def _rows(value: ir.Value | None) -> ir.Value | None:
    """[tokens, k] of [1, tokens, k], before casts."""
    return _narrow(without_row(_narrow(value)))


def _narrow(value: ir.Value | None) -> ir.Value | None:
    """The value before casts, which change no more than its precision."""
    while (cast := made_by(value, "Cast")) is not None:
        value = cast.inputs[0]
    return value


def _is_over_experts(top: ir.Node) -> bool:
    largest = top.attributes.get("largest")
    return _is_last(top) and (largest is None or bool(largest.as_int()))


def _is_last(node: ir.Node) -> bool:
    """Whether the axis of a node on [tokens, E] is E, as it is where nothing is said."""
    axis = node.attributes.get("axis")
    return axis is None or axis.as_int() in (-1, 1)


def _scalar(value: ir.Value | None) -> float | None:
    found = constant(value)
    return float(found.reshape(())) if found is not None and found.size == 1 else None


def _weights(value: ir.Value | None) -> Weights:  # 3
    weights = Weights(value)
    scaled = made_by(value, "Mul")
    factors = [_scalar(each) for each in scaled.inputs] if scaled is not None else []
    for index, factor in enumerate(factors):
        if scaled is not None and factor is not None and factor >= 0:
            weights = Weights(_narrow(scaled.inputs[1 - index]), scale=factor)
    divided = made_by(weights.picked, "Div")
    if divided is None:
        return weights
    picked, by = (_narrow(each) for each in divided.inputs)
    shifted = made_by(by, "Add")
    for index, each in enumerate(shifted.inputs) if shifted is not None else ():
        if (epsilon := _scalar(each)) is not None and shifted is not None and epsilon >= 0:
            weights.epsilon, by = epsilon, _narrow(shifted.inputs[1 - index])
    total = made_by(by, "ReduceSum")
    if total is None or _narrow(total.inputs[0]) is not picked or not _sums_last(total, keepdims=1):
        return Weights(None)
    return Weights(picked, True, weights.epsilon, weights.scale)


def _sums_last(total: ir.Node, keepdims: int) -> bool:
    kept, x = total.attributes.get("keepdims"), total.inputs[0]
    axes = total.inputs[1] if len(total.inputs) > 1 else None
    is_last = is_constant(axes, -1) or is_constant(axes, (rank(x) or 0) - 1)
    return is_last and (kept.as_int() if kept is not None else 1) == keepdims


def _experts(top: ir.Node) -> int | None:
    shape = top.inputs[0].shape if top.inputs[0] is not None else None
    return shape[-1] if shape is not None and isinstance(shape[-1], int) else None


def _biased(ranked: ir.Value | None, experts: int | None) -> tuple[ir.Value | None, ir.Value | None]:
    """Scores, and the float32 bias of each expert that is added to them."""
    total = made_by(ranked, "Add")
    for bias in total.inputs if total is not None else ():
        if total is None or bias is None or not bias.is_initializer() or bias.shape is None:
            continue
        if bias.dtype != ir.DataType.FLOAT or list(bias.shape) != [experts]:
            return None, None
        return _narrow(other_input(total, bias)), bias
    return ranked, None


def _is_gathered(picked: ir.Value | None, scores: ir.Value | None, top: ir.Node) -> bool:
    """Whether ``picked`` are the scores at the indices that TopK gives."""
    gather = made_by(picked, "GatherElements")
    axis = gather.attributes.get("axis") if gather is not None else None
    if gather is None or axis is None or axis.as_int() not in (-1, 1):
        return False
    return _narrow(gather.inputs[0]) is scores and _narrow(gather.inputs[1]) is top.outputs[1]


def _kept_groups(value: ir.Value | None) -> tuple[ir.Value | None, Attributes]:  # 2
    """What is ranked before all but some groups are lost, and how many groups there are and are kept."""
    where = made_by(value, "Where")
    if where is None:
        return value, {}
    ranked, scatter = where.inputs[2], _chain(where.inputs[0], *MASK)
    kept = _chain(scatter.inputs[1], "TopK") if scatter is not None else None
    total = _chain(kept.inputs[0], "ReduceSum") if kept is not None else None
    best = _chain(total.inputs[0], "TopK") if total is not None else None
    grouped = _chain(best.inputs[0], "Reshape") if best is not None else None
    if kept is None or total is None or best is None or grouped is None or _scalar(where.inputs[1]) != -math.inf:
        return None, {}
    groups, count = _group_count(best.inputs[0]), constant(kept.inputs[1])
    is_sum_of_two = _sums_last(total, keepdims=0) and is_constant(best.inputs[1], 2)
    if not is_sum_of_two or groups is None or count is None or _narrow(grouped.inputs[0]) is not _narrow(ranked):
        return None, {}
    return _narrow(ranked), {"groups": groups, "kept_groups": int(count.reshape(()))}


def _chain(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The last of these nodes, each of which makes the first input of the one before it, or a cast of it."""
    node = None
    for op_type in op_types:
        node = made_by(_narrow(value), op_type)
        if node is None:
            return None
        value = node.inputs[0]
    return node


def _group_count(grouped: ir.Value | None) -> int | None:
    """The groups of [tokens, groups, experts]."""
    shape = grouped.shape if grouped is not None else None
    return shape[1] if shape is not None and len(shape) == 3 and isinstance(shape[1], int) else None


def _replace(graph: ir.Graph, experts: ir.Node, router: Router) -> None:
    row = ir.node("Unsqueeze", [router.logits, numbers(graph, 0)])
    node = ir.node("TopKRouter", [row.outputs[0], router.bias], router.attributes, domain=DOMAIN, num_outputs=2)
    graph.insert_before(experts, [row, node])
    (logits,), tokens = row.outputs, experts.inputs[1]
    assert router.logits.shape is not None and tokens is not None
    logits.shape, logits.type = ir.Shape([1, *router.logits.shape]), router.logits.type
    for index, (made, dtype) in enumerate(zip(node.outputs, (ir.DataType.INT32, ir.DataType.FLOAT), strict=True)):
        made.shape, made.type = tokens.shape, ir.TensorType(dtype)
        experts.replace_input_with(index + 1, made)
