"""Turns a graph with one traced layer of each kind into the graph of every layer (see ``exporter/layers.py``).

1. A layer's region is every node that its outgoing edge or its states need and that depends on the layer: on its
   incoming edge, its parameters or its states. Nodes that depend on none of these are shared by all layers.
2. A layer that was not traced gets a copy of its kind's region, with its own parameters and states.
3. Layers are strung in the model's order, and the marks at their edges vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import TopologicalSortPass

from seqexport.exporter.layers import BEGIN, END, CannotRepeat, LayerStack
from seqexport.exporter.passes.matching import only_user
from seqexport.plugins.ops import DOMAIN
from seqexport.runtimes.manifest import StateSpec

Parameters = Callable[[str], ir.TensorProtocol]


@dataclass
class Region:
    """A traced layer: what enters, what leaves, the nodes in between in order, the values that are its own."""

    entry: ir.Value
    exit: ir.Value
    nodes: list[ir.Node]
    own: dict[str, ir.Value]


def repeat_layers(model: ir.Model, stack: LayerStack, specs: Sequence[StateSpec], parameter: Parameters) -> None:
    """``specs``: the states of every layer; ``parameter``: a parameter of the graph by its name, as a tensor.

    Raises:
        CannotRepeat: the layers are no plain chain, something else reads what they compute, or one has control flow.
    """
    graph = model.graph
    marks = _marks(graph, stack)
    regions = {r: _region(graph, stack.name, r, marks, specs) for r in stack.representatives}
    hidden = _value(marks[0, BEGIN].inputs[0])
    strung = {}
    for layer, kind in enumerate(stack.kinds):
        if layer == kind:
            strung[regions[kind].entry] = hidden
            hidden = regions[kind].exit
        else:
            hidden = _copy(graph, regions[kind], stack.name, kind, layer, hidden, parameter)
    strung[marks[len(stack.kinds) - 1, END].outputs[0]] = hidden
    for marked, value in strung.items():  # 3
        ir.convenience.replace_all_uses_with(marked, value)
    graph.remove([n for n in graph if _is_mark(n)], safe=False)
    _order_interface(graph, specs)
    TopologicalSortPass()(model)


def _marks(graph: ir.Graph, stack: LayerStack) -> dict[tuple[int, int], ir.Node]:
    """The mark of each layer's edge, where the layers are a plain chain: what leaves one enters the next, and it alone.

    Raises:
        CannotRepeat: they are not.
    """
    found: dict[tuple[int, int], ir.Node] = {}
    for node in filter(_is_mark, graph):
        edge = node.attributes["layer"].as_int(), node.attributes["edge"].as_int()
        if edge in found:
            raise CannotRepeat(f"layer {edge[0]} is called twice")
        found[edge] = node
    for layer in range(len(stack.layers) - 1):
        left, entered = found.get((layer, END)), found.get((layer + 1, BEGIN))
        if left is None or entered is None or only_user(left.outputs[0]) is not entered:
            raise CannotRepeat(f"layer {layer + 1} does not take what layer {layer} gives, or others take it as well")
    return found


def _is_mark(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == "Mark"


def _value(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


def _region(
    graph: ir.Graph, stack: str, layer: int, marks: dict[tuple[int, int], ir.Node], specs: Sequence[StateSpec]
) -> Region:  # 1
    entry, exit_ = marks[layer, BEGIN].outputs[0], _value(marks[layer, END].inputs[0])
    own = {_layer_name(stack, layer), *(s.past_name for s in specs if s.layer == layer)}
    presents = {s.present_name for s in specs if s.layer == layer}
    wanted = {exit_, *(value for value in graph.outputs if value.name in presents)}
    ancestors = _ancestors(wanted, stop={entry})
    dependent: set[ir.Value] = {entry}
    nodes, owned = [], {}
    for node in graph:
        for value in node.inputs:
            if value is not None and value.producer() is None and _belongs(value.name or "", own):
                dependent.add(value)
                if node in ancestors:
                    owned[value.name or ""] = value
        if node in ancestors and any(value in dependent for value in node.inputs if value is not None):
            nodes.append(node)
            dependent.update(node.outputs)
    _check_closed(layer, nodes, marks[layer, END])
    return Region(entry, exit_, nodes, owned)


def _check_closed(layer: int, nodes: list[ir.Node], end: ir.Node) -> None:
    inside = {*nodes, end}
    if any(use.node not in inside for node in nodes for value in node.outputs for use in value.uses()):
        raise CannotRepeat(f"what layer {layer} computes is read elsewhere")


def _layer_name(stack: str, layer: int) -> str:
    return f"model.{stack}.{layer}."


def _belongs(name: str, own: set[str]) -> bool:
    return any(name.startswith(prefix) if prefix.endswith(".") else name == prefix for prefix in own)


def _ancestors(values: set[ir.Value], stop: set[ir.Value]) -> set[ir.Node]:
    found: set[ir.Node] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        node = None if value in stop else value.producer()
        if node is not None and node not in found:
            found.add(node)
            pending.extend(v for v in node.inputs if v is not None)
    return found


def _copy(
    graph: ir.Graph,
    region: Region,
    stack: str,
    kind: int,
    layer: int,
    hidden: ir.Value,
    parameter: Parameters,
) -> ir.Value:  # 2
    """The region once more, for another layer of its kind; gives what leaves it."""
    renamed: dict[ir.Value, ir.Value] = {region.entry: hidden}
    for name, value in region.own.items():
        renamed[value] = _own_value(graph, value, _rename(name, stack, kind, layer), parameter)
    for node in region.nodes:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            raise CannotRepeat(f"{node.op_type} in layer {kind} has a graph of its own")
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if v is None else renamed.get(v, v) for v in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=f"{node.name}.{layer}",
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name = _rename(old.name or "", stack, kind, layer, suffix=f".{layer}")
            new.shape, new.type = old.shape, old.type
            renamed[old] = new
            if old.is_graph_output():
                graph.outputs.append(new)
        graph.append(copy)
    return renamed[region.exit]


def _rename(name: str, stack: str, kind: int, layer: int, suffix: str = "") -> str:
    for old, new in (
        (_layer_name(stack, kind), _layer_name(stack, layer)),
        (f"past_key_values.{kind}.", f"past_key_values.{layer}."),
        (f"present.{kind}.", f"present.{layer}."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name + suffix


def _own_value(graph: ir.Graph, like: ir.Value, name: str, parameter: Parameters) -> ir.Value:
    value = ir.Value(name=name, shape=like.shape, type=like.type)
    if like.is_initializer():
        value.const_value = parameter(name)
        graph.register_initializer(value)
    else:
        graph.inputs.append(value)
    return value


def _order_interface(graph: ir.Graph, specs: Sequence[StateSpec]) -> None:
    """States in the order of ``specs``, after everything else."""
    for values, names in (
        (graph.inputs, [s.past_name for s in specs]),
        (graph.outputs, [s.present_name for s in specs]),
    ):
        by_name = {value.name: value for value in values}
        rest = [value for value in values if value.name not in names]
        ordered = [*rest, *(by_name[name] for name in names)]
        values.clear()
        values.extend(ordered)
