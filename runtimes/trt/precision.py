"""Holds TensorRT before version 10 to the types of the graph; left alone, it computes in any type that it finds fast.

Such a version reports float32 for every float tensor inside a parsed network, so the graph's types are worked out anew:
inputs, weights and casts state theirs, and every other layer gives float16 if any of its inputs is float16. Our plugins
do likewise, but for the outputs in ``OUTPUTS``.
"""

from __future__ import annotations

from typing import Any

FIXED = ("CONSTANT", "SHAPE", "CAST", "PLUGIN_V2")
"""Layers whose types cannot be set."""

OUTPUTS = {"SelectiveScan": "TF", "SsdScan": "TF", "RmsNorm": "TS", "TopKRouter": "IF"}
"""The output types of our ops that give other types than T, as in ``Op.outputs``. They stand here again because
plugins/ops needs torch, which a machine that builds engines may lack; tests/ops/test_descriptions.py compares them."""

OURS = b"seqexport-plugin "
"""How a serialised plugin of ours starts."""


def pin_types(trt: Any, network: Any) -> bool:
    """Set the precision of every layer and the type of its outputs; returns whether any tensor is float16.

    If none is, nothing is set: a builder that was not allowed float16 has only float32 to choose.
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
    """The type that the graph gives to every float tensor, by name; ``layers`` are in the order of the graph."""
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
        text = bytes(layer.plugin.serialize())
        if not text.startswith(OURS):
            return stated
        return trt.float32 if _is_float32(layer.plugin.plugin_type, text, index) else _of_given(trt, given)
    if kind in FIXED or not given:
        return stated
    return _of_given(trt, given)


def _of_given(trt: Any, given: list[Any]) -> Any:
    return trt.float16 if trt.float16 in given else trt.float32


def _is_float32(op: str, text: bytes, index: int) -> bool:
    """Whether an output is float32 even where T is float16.

    ``text`` is the serialised plugin (plugins/tensorrt/plugin_node.cpp): its last line but one is the op's last
    attribute, which is ``wide`` where an output has type S.
    """
    kind = OUTPUTS.get(op, "")[index : index + 1]
    return kind == "F" or (kind == "S" and text.splitlines()[-2] == b"1")


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]


def _inputs(layer: Any) -> list[Any]:
    tensors = [layer.get_input(index) for index in range(layer.num_inputs)]
    return [tensor for tensor in tensors if tensor is not None]
