"""TensorRT before 10 computes in any type that it finds fast; this holds every layer to the types of the graph.

It does not keep the graph's types itself: it says float32 of a tensor inside a network until it has chosen. They follow
from what has a type of its own (inputs, weights, casts), as every op gives what it is given; so do our plugins, but for
the outputs that are float32 whatever else they are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIXED = ("CONSTANT", "SHAPE", "CAST", "PLUGIN_V2")
"""Layers whose types are what they are."""

Types = Mapping[str, Any]


def pin_types(trt: Any, network: Any) -> bool:
    """Pin layers and their outputs to the types of the graph; whether any of these is half precision.

    A float32 network needs no pins: without half precision there is nothing to choose from.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    types = graph_types(trt, network, layers)
    if trt.float16 not in types.values():
        return False
    for layer in layers:
        outputs = _outputs(layer)
        floats = [(index, types[out.name]) for index, out in enumerate(outputs) if out.name in types]
        if layer.type.name in FIXED or not floats:
            continue
        layer.precision = floats[0][1]
        for index, dtype in floats:
            layer.set_output_type(index, dtype)
    return True


def graph_types(trt: Any, network: Any, layers: list[Any]) -> dict[str, Any]:
    """The type of every float tensor, by name; layers come in the order of the graph."""
    floats = (trt.float32, trt.float16)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    types = {tensor.name: tensor.dtype for tensor in inputs if tensor.dtype in floats}
    for layer in layers:
        given = [types[tensor.name] for tensor in _inputs(layer) if tensor.name in types]
        for index, output in enumerate(_outputs(layer)):
            if output.dtype in floats:
                types[output.name] = _output_type(trt, layer, given, index, output.dtype)
    return types


def _output_type(trt: Any, layer: Any, given: list[Any], index: int, stated: Any) -> Any:
    kind = layer.type.name
    if kind == "CONSTANT":
        layer.__class__ = trt.IConstantLayer
        return trt.float16 if layer.weights.dtype == "float16" else trt.float32
    if kind == "PLUGIN_V2":
        layer.__class__ = trt.IPluginV2Layer
        wide = _is_float32(layer.plugin, index)
        if wide is None:
            return stated
        return trt.float16 if trt.float16 in given and not wide else trt.float32
    if kind in FIXED or not given:
        return stated
    return trt.float16 if trt.float16 in given else trt.float32


def _is_float32(plugin: Any, index: int) -> bool | None:
    """Whether one of our plugins gives float32 there whatever type its other tensors have; None of a plugin of others'.

    Ours serialise text (plugins/tensorrt/plugin_node.cpp), of an RmsNorm its residual stream's type last.
    """
    text = bytes(plugin.serialize())
    if not text.startswith(b"seqexport-plugin "):
        return None
    match plugin.plugin_type, index:
        case ("SelectiveScan", 1):
            return True
        case ("RmsNorm", 1):
            return text.splitlines()[-2] == b"1"
    return False


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]


def _inputs(layer: Any) -> list[Any]:
    tensors = [layer.get_input(index) for index in range(layer.num_inputs)]
    return [tensor for tensor in tensors if tensor is not None]
