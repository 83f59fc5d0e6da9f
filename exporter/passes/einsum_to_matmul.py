"""An Einsum that is a product of matrices becomes MatMul.

ONNX Runtime arranges and copies both operands of an Einsum: in VMamba's blocks that took longer than all else (seen).

1. Two operands share one summed letter. The last letter but one of the result is of one operand alone, which becomes
   the left one, and the last is of the other alone; all letters before these are rows of matrices, side by side.
2. An operand is arranged as MatMul has it, where it is not: ``[..., m, sum]`` and ``[..., sum, n]``.
3. MatMul repeats what lacks the first letters of the result; one that is lacking between others gets an axis of size 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import onnx_ir as ir

from seqexport.exporter.passes.matching import takes_over
from seqexport.exporter.passes.parameters import numbers

EQUATION = re.compile(r"(\w+),(\w+)->(\w+)")
Operand = tuple[ir.Value, str]
"""A value and the letters of its axes."""


def einsum_to_matmul(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.op_type == "Einsum" and node.domain == "":
            _rewrite(model.graph, node)


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    found = _matrices(node)
    if found is None:
        return
    (left, left_letters), (right, right_letters), result = found
    rows, m, n = result[:-2], result[-2], result[-1]
    (summed,) = set(left_letters) - set(result)

    def put(op_type: str, *inputs: ir.Value, **attributes: list[int]) -> ir.Value:
        new = ir.node(op_type, inputs, attributes)
        graph.insert_before(node, new)
        return new.outputs[0]

    first = _arranged(graph, put, (left, left_letters), rows, m + summed)
    second = _arranged(graph, put, (right, right_letters), rows, summed + n)
    takes_over(node.outputs[0], put("MatMul", first, second))
    graph.remove(node, safe=True)


def _matrices(node: ir.Node) -> tuple[Operand, Operand, str] | None:  # 1
    match = EQUATION.fullmatch(node.attributes["equation"].as_string().replace(" ", ""))
    if match is None or len(node.inputs) != 2 or any(len(set(letters)) != len(letters) for letters in match.groups()):
        return None
    first, second, result = match.groups()
    a, b = node.inputs
    if a is None or b is None or len(result) < 2 or len(set(first + second) - set(result)) != 1:
        return None
    if not set(first) & set(second) - set(result):
        return None
    only = {letter: first if letter not in second else second for letter in first + second if letter in result}
    m, n = result[-2], result[-1]
    if (m in first and m in second) or (n in first and n in second) or only[m] == only[n]:
        return None
    return ((a, first), (b, second), result) if only[m] == first else ((b, second), (a, first), result)


def _arranged(graph: ir.Graph, put: Callable[..., ir.Value], operand: Operand, rows: str, matrix: str) -> ir.Value:
    value, letters = operand
    wanted = "".join(letter for letter in rows if letter in letters) + matrix
    if wanted != letters:  # 2
        value = put("Transpose", value, perm=[letters.index(letter) for letter in wanted])
    begin = next((index for index, letter in enumerate(rows) if letter in letters), len(rows))
    lacking = [index for index, letter in enumerate(rows[begin:]) if letter not in letters]
    if lacking:  # 3
        value = put("Unsqueeze", value, numbers(graph, *lacking))
    return value
