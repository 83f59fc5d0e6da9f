"""Turns a graph with one traced layer of each kind into the graph of every layer (see ``exporter/layers.py``).

1. A layer's region is every node that its outgoing edge or its states need and that depends on the layer: on its
   incoming edge, its parameters or its states. Nodes that depend on none of these are shared by all layers.
2. A layer that was not traced gets a copy of its kind's region, with its own parameters and states.
3. What enters a layer and what reads it stays as the model has it, and the marks at the edges vanish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import TopologicalSortPass
from torch import Tensor

from seqexport.exporter.layers import BEGIN, END, CannotRepeat, LayerStack
from seqexport.exporter.passes.matching import takes_over
from seqexport.plugins.ops import DOMAIN
from seqexport.runtimes.manifest import StateSpec


@dataclass
class Region:
    """A traced layer: what enters, what leaves, the nodes in between in order, the values that are its own."""

    entry: ir.Value
    exit: ir.Value
    nodes: list[ir.Node]
    own: dict[str, ir.Value]


def repeat_layers(
    model: ir.Model, stack: LayerStack, specs: Sequence[StateSpec], parameters: Mapping[str, Tensor]
) -> None:
    """``specs``: the states of every layer; ``parameters``: of every layer, by their names in the graph.

    Raises:
        CannotRepeat: a layer is called twice, something else reads what is inside of one, or one has control flow.
    """
    graph = model.graph
    marks = _marks(graph, stack)
    regions = {r: _region(graph, stack, r, marks, specs) for r in stack.representatives}
    left = {kind: region.exit for kind, region in regions.items()}
    for layer, kind in enumerate(stack.kinds):
        if layer != kind:
            left[layer] = _copy(graph, regions[kind], stack, kind, layer, marks[layer, BEGIN].outputs[0], parameters)
    for layer, value in left.items():  # 3
        _replace(marks[layer, END].outputs[0], value)
    for layer in left:
        _replace(marks[layer, BEGIN].outputs[0], _value(marks[layer, BEGIN].inputs[0]))
    graph.remove([n for n in graph if _is_mark(n)], safe=False)
    _order_interface(graph, specs)
    TopologicalSortPass()(model)


def _marks(graph: ir.Graph, stack: LayerStack) -> dict[tuple[int, int], ir.Node]:
    """The mark of each layer's edge.

    Raises:
        CannotRepeat: a layer has not one of each.
    """
    found: dict[tuple[int, int], ir.Node] = {}
    for node in filter(_is_mark, graph):
        edge = node.attributes["layer"].as_int(), node.attributes["edge"].as_int()
        if edge in found:
            raise CannotRepeat(f"layer {edge[0]} is called twice")
        found[edge] = node
    for layer in range(len(stack.layers)):
        if (layer, BEGIN) not in found or (layer, END) not in found:
            raise CannotRepeat(f"nothing reads what layer {layer} gives")
    return found


def _replace(marked: ir.Value, value: ir.Value) -> None:
    if not marked.is_graph_output():
        ir.convenience.replace_all_uses_with(marked, value)
    elif value.is_graph_input() or value.is_graph_output():
        raise CannotRepeat(f"{value.name} is the graph's input or output as it stands")
    else:
        takes_over(marked, value)


def _is_mark(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == "Mark"


def _value(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


def _region(
    graph: ir.Graph, stack: LayerStack, layer: int, marks: dict[tuple[int, int], ir.Node], specs: Sequence[StateSpec]
) -> Region:  # 1
    entry, exit_ = marks[layer, BEGIN].outputs[0], _value(marks[layer, END].inputs[0])
    own = {f"{stack.names[layer]}.", *(s.past_name for s in specs if s.layer == layer)}
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
    if stack.alone:
        _check_alone(layer, {v for n in nodes for v in n.inputs if v is not None and v not in dependent})
    return Region(entry, exit_, nodes, owned)


def _check_closed(layer: int, nodes: list[ir.Node], end: ir.Node) -> None:
    inside = {*nodes, end}
    if any(use.node not in inside for node in nodes for value in node.outputs for use in value.uses()):
        raise CannotRepeat(f"what layer {layer} computes is read elsewhere")


def _check_alone(layer: int, read: set[ir.Value]) -> None:
    """Sizes of inputs are no values of theirs."""
    found = _ancestors(read, stop=set(), sizes=False)
    values = {v for node in found for v in node.inputs if v is not None and node.op_type != "Shape"} | read
    if any(value.is_graph_input() for value in values):
        raise CannotRepeat(f"layer {layer} reads more than it is given")


def _belongs(name: str, own: set[str]) -> bool:
    return any(name.startswith(prefix) if prefix.endswith(".") else name == prefix for prefix in own)


def _ancestors(values: set[ir.Value], stop: set[ir.Value], *, sizes: bool = True) -> set[ir.Node]:
    """The nodes that values come from; without ``sizes``, none that those come from whose sizes alone are read."""
    found: set[ir.Node] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        node = None if value in stop else value.producer()
        if node is not None and node not in found:
            found.add(node)
            if sizes or node.op_type != "Shape":
                pending.extend(v for v in node.inputs if v is not None)
    return found


def _copy(
    graph: ir.Graph,
    region: Region,
    stack: LayerStack,
    kind: int,
    layer: int,
    hidden: ir.Value,
    parameters: Mapping[str, Tensor],
) -> ir.Value:  # 2
    """The region once more, for another layer of its kind; gives what leaves it."""
    renamed: dict[ir.Value, ir.Value] = {region.entry: hidden}
    for name, value in region.own.items():
        renamed[value] = _own_value(graph, value, _rename(name, stack, kind, layer), parameters)
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


def _rename(name: str, stack: LayerStack, kind: int, layer: int, suffix: str = "") -> str:
    for old, new in (
        (f"{stack.names[kind]}.", f"{stack.names[layer]}."),
        (f"past_key_values.{kind}.", f"past_key_values.{layer}."),
        (f"present.{kind}.", f"present.{layer}."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name + suffix


def _own_value(graph: ir.Graph, like: ir.Value, name: str, parameters: Mapping[str, Tensor]) -> ir.Value:
    value = ir.Value(name=name, shape=like.shape, type=like.type)
    if like.is_initializer():
        value.const_value = ir.tensor_adapters.TorchTensor(parameters[name].detach(), name=name)
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
