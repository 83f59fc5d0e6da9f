"""Nodes of our ops get their bodies, as functions of the model.

1. Nodes whose bodies read the same share one function; what differs by an attribute alone, the body reads from it.
2. An op's bodies are told apart by their domains: that of most of its nodes has the plain one, the next form's ends in
   ``.2``. By the standard, overload names would do; ONNX Runtime before 1.27 runs one body for all overloads.
3. The op library has its kernels in every such domain (plugins/onnxruntime/register.cpp), up to ``.3``.
4. Node and function have the inputs that are given, no others (``close_gaps``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from seqexport.exporter.passes.absent_inputs import close_gaps, given_inputs
from seqexport.plugins.ops import OPS, VERSION, Call

Body = list[str]


def call_of(node: ir.Node) -> Call:
    """How a node of one of our ops uses it."""
    op = OPS[node.op_type]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return Call(frozenset(given_inputs(node)), {**op.attributes, **attributes})


def define(model: ir.Model, domain: str, bodies: Iterable[tuple[ir.Node, Body]], opsets: Mapping[str, int]) -> None:
    """Move the nodes to ``domain`` with these bodies, which use the opsets."""
    uses: dict[str, dict[object, list[tuple[ir.Node, Body]]]] = defaultdict(lambda: defaultdict(list))
    for node, body in bodies:
        given = frozenset(given_inputs(node))
        uses[node.op_type][tuple(body), given, len(node.outputs)].append((node, body))  # 1
    for name, forms in uses.items():
        for index, alike in enumerate(sorted(forms.values(), key=len, reverse=True)):
            place = f"{domain}.{index + 1}" if index else domain  # 2
            first, body = alike[0]
            function = ir.serde.deserialize_function(OPS[name].function(call_of(first), body, opsets, place))
            model.functions[function.identifier()] = function
            model.opset_imports[place] = VERSION
            for node, _ in alike:
                node.domain = place
                close_gaps(node)  # 4


def is_in(domain: str, node: ir.Node) -> bool:
    """Whether a node is in ``domain``, whichever of its bodies it has."""
    return node.domain == domain or node.domain.removeprefix(f"{domain}.").isdigit()
