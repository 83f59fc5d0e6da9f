"""Follows one direction of what vision models stack, [B,K,C,L] of K directions, to the order of the map it comes from.

1. Concat of directions, or Unsqueeze: to its own part, whose channels are put last.
2. Slice of all tokens backwards: the direction runs backwards.
3. MatMul of K matrices that the graph stores: to the product of its tokens and its matrix.
4. Split of channels, Cast, and a Reshape that changes nothing.
5. Slice of directions, and Add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from seqexport.exporter.passes.matching import (
    constant,
    features,
    is_constant,
    made_by,
    permutation,
    rank,
    same_shape,
    untransposed,
)
from seqexport.exporter.passes.parameters import initializer, numbers
from seqexport.exporter.passes.sink_transposes import LAST_TWO

DIRECTIONS, CHANNELS, TOKENS = 1, 2, 3
"""The axes of [B,K,C,L] after the first."""

TURNED, CHANNELS_LAST, COLUMNS_FIRST = [0, 1, 3, 2], [0, 2, 3, 1], [0, 2, 1, 3]
"""Of a map [B,C,H,W]: its columns as rows, and its channels last; of the latter, its columns as rows."""


@dataclass(frozen=True)
class Direction:
    """``tokens`` [B,L,C] of one direction, in the other order if ``backwards``."""

    tokens: ir.Value
    backwards: bool = False


@dataclass
class Follower:
    """What it makes of a node is kept for the node's other users."""

    graph: ir.Graph
    known: dict[tuple[ir.Value, int], Direction | None] = field(default_factory=dict)
    made: dict[tuple[object, ...], Sequence[ir.Value]] = field(default_factory=dict)

    def follow(self, value: ir.Value | None, direction: int) -> Direction | None:
        """One direction of [B,K,C,L]; None where a rule is lacking."""
        if value is None:
            return None
        if (value, direction) not in self.known:
            node = value.producer()
            rule = RULES.get(node.op_type) if node is not None and node.domain == "" else None
            found = rule(self, node, value, direction) if rule is not None and node is not None else None
            self.known[value, direction] = found
        return self.known[value, direction]

    def put(
        self, op_type: str, *inputs: ir.Value, shapes: Sequence[object], type_: ir.TypeProtocol | None, **given: Any
    ) -> Sequence[ir.Value]:
        """The outputs of a node of these ``shapes``; one node for all that want it."""
        key = (op_type, *inputs, *sorted((name, str(each)) for name, each in given.items()))
        if key not in self.made:
            node = ir.node(op_type, inputs, given, num_outputs=len(shapes))
            self.graph.append(node)
            self.made[key] = node.outputs
            for output, shape in zip(node.outputs, shapes, strict=True):
                output.shape, output.type = ir.Shape(shape), type_  # type: ignore[arg-type]
        return self.made[key]

    def of_tokens(self, op_type: str, *inputs: ir.Value, channels: object, **given: Any) -> ir.Value:
        """The output [B,L,channels] of a node whose first input is [B,L,C]."""
        like = inputs[0]
        assert like.shape is not None
        return self.put(op_type, *inputs, shapes=[[*like.shape[:2], channels]], type_=like.type, **given)[0]

    def transposed(self, value: ir.Value, perm: list[int]) -> ir.Value:
        assert value.shape is not None
        shape = [value.shape[axis] for axis in perm]
        return self.put("Transpose", value, shapes=[shape], type_=value.type, perm=perm)[0]

    def split(self, tokens: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
        """[B,L,C] cut along its channels."""
        assert tokens.shape is not None
        shapes = [[*tokens.shape[:2], size] for size in sizes]
        return self.put("Split", tokens, numbers(self.graph, *sizes), shapes=shapes, type_=tokens.type, axis=2)

    def forwards(self, direction: Direction) -> ir.Value:
        """Its tokens in the order of the direction that was followed."""
        tokens = direction.tokens
        if not direction.backwards:
            return tokens
        bounds = [numbers(self.graph, number) for number in (-1, np.iinfo(np.int64).min, 1, -1)]
        return self.of_tokens("Slice", tokens, *bounds, channels=features(tokens))

    def channels_last(self, whole: ir.Value) -> ir.Value:
        """[B,C,L] as [B,L,C]. Of a map that is read by columns, whole rows of channels are moved; the Reshapes keep
        ONNX Runtime from moving single numbers in one transpose, which took 17 times as long."""
        reshape = made_by(whole, "Reshape")
        given = reshape.inputs[0] if reshape is not None else None
        assert whole.shape is not None
        if given is None or rank(given) != 4 or given.shape is None or given.shape[1] != whole.shape[1]:
            return self.transposed(whole, LAST_TWO)
        if permutation(given) != TURNED:
            return self._in_line(self.transposed(given, CHANNELS_LAST), whole)
        upright = untransposed(given)
        tokens = self._in_line(self.transposed(upright, CHANNELS_LAST), whole)
        return self._in_line(self.transposed(self._on_map(tokens, upright), COLUMNS_FIRST), whole)

    def _in_line(self, places: ir.Value, like: ir.Value) -> ir.Value:
        """[B,H,W,C] as [B,L,C], of which ``like`` is [B,C,L]."""
        assert like.shape is not None
        shape = [like.shape[axis] for axis in LAST_TWO]
        sizes = numbers(self.graph, 0, -1, int(shape[2]))  # type: ignore[arg-type]
        return self.put("Reshape", places, sizes, shapes=[shape], type_=like.type)[0]

    def _on_map(self, tokens: ir.Value, like: ir.Value) -> ir.Value:
        """[B,L,C] as [B,H,W,C], of which ``like`` is [B,C,H,W]."""
        assert like.shape is not None
        shape, channels = [like.shape[axis] for axis in CHANNELS_LAST], features(tokens)
        if isinstance(shape[1], int) and isinstance(shape[2], int):
            sizes = numbers(self.graph, 0, shape[1], shape[2], channels)
        else:
            integers = ir.TensorType(ir.DataType.INT64)
            (height,) = self.put("Shape", like, shapes=[[1]], type_=integers, start=2, end=3)
            around = [numbers(self.graph, number) for number in (0, -1, channels)]
            parts = [around[0], height, *around[1:]]
            (sizes,) = self.put("Concat", *parts, shapes=[[4]], type_=integers, axis=0)
        return self.put("Reshape", tokens, sizes, shapes=[shape], type_=tokens.type)[0]


def _concat(follower: Follower, node: ir.Node, value: ir.Value, direction: int) -> Direction | None:  # 1
    if node.attributes["axis"].as_int() != DIRECTIONS:
        return None
    for part in node.inputs:
        count = _count(part)
        if count is None:
            return None
        if direction < count:
            return follower.follow(part, direction)
        direction -= count
    return None


def _count(part: ir.Value | None) -> int | None:
    """Of the directions in a part."""
    node = made_by(part, "Unsqueeze")
    if node is not None and is_constant(node.inputs[1], DIRECTIONS):
        return 1
    count = part.shape[DIRECTIONS] if part is not None and part.shape is not None and rank(part) == 4 else None
    return count if isinstance(count, int) else None


def _unsqueeze(follower: Follower, node: ir.Node, value: ir.Value, direction: int) -> Direction | None:  # 1
    whole = node.inputs[0]
    if whole is None or whole.shape is None or rank(whole) != 3 or not isinstance(whole.shape[1], int):
        return None
    return Direction(follower.channels_last(whole)) if is_constant(node.inputs[1], DIRECTIONS) else None


def _slice(follower: Follower, node: ir.Node, value: ir.Value, direction: int) -> Direction | None:  # 2, 5
    start, end, axis, step = [*map(_number, node.inputs[1:]), *[None] * 4][:4]
    if start is None or end is None or axis is None:
        return None
    if axis % 4 == TOKENS and (start, step) == (-1, -1) and end < -(1 << 31):
        whole = follower.follow(node.inputs[0], direction)
        return None if whole is None else Direction(whole.tokens, not whole.backwards)
    if axis == DIRECTIONS and start >= 0 and step in (None, 1):
        return follower.follow(node.inputs[0], start + direction)
    return None


def _number(value: ir.Value | None) -> int | None:
    found = constant(value)
    return int(found.reshape(-1)[0]) if found is not None and found.size == 1 else None


def _product(follower: Follower, node: ir.Node, value: ir.Value, direction: int) -> Direction | None:  # 3
    matrices, x = node.inputs
    given = follower.follow(x, direction) if matrices is not None and matrices.is_initializer() else None
    if given is None or matrices is None or matrices.shape is None or rank(matrices) != 3 or matrices.shape[0] == 1:
        return None
    name = f"number_{direction}"
    which = initializer(follower.graph, name, ir.tensor(np.array(direction, np.int64), name=name))
    (matrix,) = follower.put("Gather", matrices, which, shapes=[matrices.shape[1:]], type_=matrices.type, axis=0)
    columns = follower.transposed(matrix, [1, 0])
    product = follower.of_tokens("MatMul", given.tokens, columns, channels=matrices.shape[1])
    return Direction(product, given.backwards)


def _split(follower: Follower, node: ir.Node, value: ir.Value, direction: int) -> Direction | None:  # 4
    sizes = [each.shape[CHANNELS] if each.shape is not None else None for each in node.outputs]
    known = [size for size in sizes if isinstance(size, int)]
    whole = follower.follow(node.inputs[0], direction) if node.attributes["axis"].as_int() == CHANNELS else None
    if whole is None or len(known) < len(sizes):
        return None
    return Direction(follower.split(whole.tokens, known)[node.outputs.index(value)], whole.backwards)


def keeps_shape(reshape: ir.Node) -> bool:
    """Whether it gives the sizes that it takes, as ``view`` of what has them already."""
    given = reshape.inputs[0]
    return given is not None and same_shape(given, reshape.outputs[0])


def _reshape(follower: Follower, node: ir.Node, value: ir.Value, direction: int) -> Direction | None:  # 4
    return follower.follow(node.inputs[0], direction) if keeps_shape(node) else None


def _cast(follower: Follower, node: ir.Node, value: ir.Value, direction: int) -> Direction | None:  # 4
    whole = follower.follow(node.inputs[0], direction)
    if whole is None or whole.tokens.shape is None:
        return None
    shapes, to = [whole.tokens.shape], node.attributes["to"].as_int()
    return Direction(follower.put("Cast", whole.tokens, shapes=shapes, type_=value.type, to=to)[0], whole.backwards)


def _add(follower: Follower, node: ir.Node, value: ir.Value, direction: int) -> Direction | None:  # 5
    a, b = (follower.follow(each, direction) for each in node.inputs)
    if a is None or b is None:
        return None
    alike = a.backwards == b.backwards
    first, second = (each.tokens if alike else follower.forwards(each) for each in (a, b))
    return Direction(follower.of_tokens("Add", first, second, channels=features(first)), alike and a.backwards)


Rule = Callable[[Follower, ir.Node, ir.Value, int], Direction | None]
RULES: dict[str, Rule] = {
    "Add": _add,
    "Cast": _cast,
    "Concat": _concat,
    "MatMul": _product,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Unsqueeze": _unsqueeze,
}
