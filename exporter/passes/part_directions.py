"""The directions of a vision model's scan, each computed apart: [B,K,C,L] of K directions becomes K of [B,L,C].

VMamba and its kin (Liu et al. 2024) stack the orders of a map, append them backwards, and project all directions in one
product. Where each input of a scan is arranged so, every direction is followed to the order that it comes from
(follow_directions.py): an order is read for there and back, products are of tokens and one matrix, and what runs
backwards is left to the scan.

1. Inputs of the scan are joined out of the directions' own.
2. The last directions run backwards: ``reverse_groups``. Where others do, their tokens are turned around as before.
3. Who reads one direction behind the scan reads that direction's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from seqexport.exporter.passes.cancel_transposes import TOKENS_FIRST, joins_channels
from seqexport.exporter.passes.follow_directions import CHANNELS, DIRECTIONS, Direction, Follower, keeps_shape
from seqexport.exporter.passes.matching import constant, made_by, permutation, untransposed
from seqexport.exporter.passes.parameters import numbers
from seqexport.exporter.passes.sink_transposes import LAST_TWO
from seqexport.plugins.ops import DOMAIN, OPS

NAMES = OPS["SelectiveScan"].input_names
X, DT, B, C, Z, LENS = (NAMES.index(name) for name in ("x", "dt", "B", "C", "z", "seq_lens"))


def part_directions(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.domain == DOMAIN and node.op_type == "SelectiveScan":
            _part(model.graph, node)
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)


def _part(graph: ir.Graph, scan: ir.Node) -> None:
    stacks, y, follower = _stacks(scan), scan.outputs[0], Follower(graph)
    if not stacks or y.is_graph_output():
        return
    K = int(stacks[X].shape[DIRECTIONS])  # type: ignore[index, arg-type]
    apart = {index: _apart(follower, stack, K) for index, stack in stacks.items()}
    orders = {tuple(each.backwards for each in every) for every in apart.values()}
    if len(orders) != 1 or len(order := orders.pop()) != K:
        return
    is_last = list(order) == sorted(order)  # 2
    for index, every in apart.items():
        tokens = [each.tokens if is_last else follower.forwards(each) for each in every]
        scan.replace_input_with(index, _joined(follower, tokens, groups=index in (B, C)))
    if is_last:
        scan.attributes["reverse_groups"] = ir.AttrInt64("reverse_groups", sum(order))
    _part_behind(follower, y, order if is_last else (False,) * K)


def _stacks(scan: ir.Node) -> dict[int, ir.Value]:
    """By place, the inputs that a direction has its own of, [B,K,C,L] each; none where they are not arranged so.

    Nor where rows end early: a flip puts their padded tokens first, and the scan would leave them where they are.
    """
    has_order = "reverse_groups" in scan.attributes and scan.attributes["reverse_groups"].as_int() > 0
    has_more = any(index < len(scan.inputs) and scan.inputs[index] is not None for index in (Z, LENS))
    if has_more or has_order:
        return {}
    stacks = {index: _parted(scan.inputs[index]) for index in (X, DT)}
    stacks |= {index: _tokens_last(scan.inputs[index]) for index in (B, C)}
    found = {index: stack for index, stack in stacks.items() if stack is not None and stack.shape is not None}
    counts = {stack.shape[DIRECTIONS] for stack in found.values() if stack.shape is not None}
    return found if len(found) == len(stacks) and len(counts) == 1 and isinstance(counts.pop(), int) else {}


def _parted(value: ir.Value | None) -> ir.Value | None:
    """The [B,K,D,L] that is [B,L,K*D] here."""
    joined = untransposed(value) if permutation(value) == LAST_TWO else None
    reshape = made_by(joined, "Reshape")
    given = reshape.inputs[0] if reshape is not None else None
    return given if reshape is not None and joins_channels(reshape, given, joined) else None


def _tokens_last(value: ir.Value | None) -> ir.Value | None:
    """The [B,G,N,L] that is [B,L,G,N] here."""
    return untransposed(value) if permutation(value) == TOKENS_FIRST else None


def _apart(follower: Follower, stack: ir.Value, K: int) -> list[Direction]:
    """The directions of a stack that can be followed."""
    return [each for each in (follower.follow(stack, k) for k in range(K)) if each is not None]


def _joined(follower: Follower, tokens: Sequence[ir.Value], *, groups: bool) -> ir.Value:  # 1
    """[B,L,K*C], or in groups [B,L,K,C]."""
    first, K = tokens[0], len(tokens)
    assert first.shape is not None
    size = int(first.shape[2])  # type: ignore[arg-type]
    joined = follower.of_tokens("Concat", *tokens, channels=K * size, axis=2)
    if not groups:
        return joined
    shape = [*first.shape[:2], K, size]
    return follower.put("Reshape", joined, numbers(follower.graph, 0, 0, K, size), shapes=[shape], type_=first.type)[0]


def _part_behind(follower: Follower, y: ir.Value, order: Sequence[bool]) -> None:  # 3
    readers, K = list(y.uses()), len(order)
    size = int(y.shape[2]) // K  # type: ignore[index, arg-type]
    parts = [Direction(part, back) for part, back in zip(follower.split(y, [size] * K), order, strict=True)]
    as_before = _joined(follower, [follower.forwards(part) for part in parts], groups=False)
    for node, index in readers:
        node.replace_input_with(index, as_before)
    for transpose, _ in list(as_before.uses()):
        whole = transpose.outputs[0]
        for reshape, _ in list(whole.uses()) if permutation(whole) == LAST_TWO else ():
            stack = reshape.outputs[0]
            if joins_channels(reshape, stack, whole) and stack.shape is not None and stack.shape[CHANNELS] == size:
                follower.known |= {(stack, k): part for k, part in enumerate(parts)}
                _read_apart(follower, stack)


def _read_apart(follower: Follower, stack: ir.Value) -> None:
    for node in [node for node, _ in stack.uses() if node.domain == ""]:
        if node.op_type in ("Slice", "Add") or (node.op_type == "Reshape" and keeps_shape(node)):
            _read_apart(follower, node.outputs[0])
        elif node.op_type == "Gather" and node.attributes["axis"].as_int() == DIRECTIONS:
            which = constant(node.inputs[1])
            direction = follower.follow(stack, int(which)) if which is not None and not which.ndim else None
            if direction is not None:
                own = follower.transposed(follower.forwards(direction), LAST_TWO)
                ir.convenience.replace_all_uses_with(node.outputs[0], own)
