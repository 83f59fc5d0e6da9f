"""Before TensorRT 10, every layer of an engine is held to the types of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from seqexport.runtimes.trt.precision import pin_types


@dataclass
class Tensor:
    name: str
    dtype: str


class Layer:
    """One layer of a network: its kind, and its inputs and outputs as ``name:dtype``, as TensorRT states them."""

    def __init__(self, kind: str, inputs: str, outputs: str, plugin: Plugin | None = None, weights: str = "") -> None:
        self.type, self.plugin, self.weights = SimpleNamespace(name=kind), plugin, SimpleNamespace(dtype=weights)
        self.inputs, self.outputs = tensors(inputs), tensors(outputs)
        self.num_inputs, self.num_outputs = len(self.inputs), len(self.outputs)
        self.precision: str | None = None
        self.types: dict[int, str] = {}

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]

    def set_output_type(self, index: int, dtype: str) -> None:
        self.types[index] = dtype


@dataclass
class Plugin:
    plugin_type: str
    text: str = ""

    def serialize(self) -> bytes:
        return self.text.encode()


SCAN = Plugin("SelectiveScan", "seqexport-plugin 2\nSelectiveScan\nx,dt,A,B,C,past\ny,present\n\n1\n0123456789abcdef")


def tensors(text: str) -> list[Tensor]:
    return [Tensor(*part.split(":")) for part in text.split()]


def pinned(inputs: str, *layers: Layer) -> bool:
    given = tensors(inputs)
    network = SimpleNamespace(
        num_layers=len(layers),
        get_layer=lambda index: layers[index],
        num_inputs=len(given),
        get_input=lambda index: given[index],
    )
    trt = SimpleNamespace(float32="f32", float16="f16", IConstantLayer=Layer, IPluginV2Layer=Layer)
    return pin_types(trt, network)


def test_before_tensorrt_10_every_layer_keeps_the_types_of_the_graph() -> None:
    """TensorRT says float32 of all inside a network, so types follow from inputs, weights, casts and plugins."""
    weights = Layer("CONSTANT", "", "w:f32", weights="float16")
    matmul = Layer("MATRIX_MULTIPLY", "x:f16 w:f32", "y:f32")
    cast, norm = Layer("CAST", "y:f32", "wide:f32"), Layer("REDUCE", "wide:f32", "mean:f32")
    compare, index = Layer("ELEMENTWISE", "wide:f32 mean:f32", "less:bool"), Layer("GATHER", "ids:i32", "at:i32")
    scan = Layer("PLUGIN_V2", "y:f32 past:f32", "mixed:f32 present:f32", SCAN)
    select, back = Layer("SELECT", "less:bool mixed:f32 y:f32", "out:f32"), Layer("SHUFFLE", "present:f32", "flat:f32")
    assert pinned("x:f16 past:f32 ids:i32", weights, matmul, cast, norm, compare, index, scan, select, back)
    for layer, expected in ((matmul, "f16"), (norm, "f32"), (select, "f16"), (back, "f32")):
        assert (layer.precision, layer.types) == (expected, {0: expected}), layer.type.name
    for layer in (weights, cast, compare, index, scan):
        assert (layer.precision, layer.types) == (None, {}), layer.type.name


@pytest.mark.parametrize(("wide", "stream"), [(1, "f32"), (0, "f16")])
def test_the_type_of_a_residual_stream_is_what_its_norm_says(wide: int, stream: str) -> None:
    weight = Layer("CONSTANT", "", "w:f32", weights="float16")
    norm = Plugin("RmsNorm", f"seqexport-plugin 2\nRmsNorm\nx,weight\ny,sum\n\n1e-05\n1\n0\n{wide}\n0123456789abcdef")
    layer = Layer("PLUGIN_V2", "x:f32 w:f32", "y:f32 sum:f32", norm)
    y, total = Layer("SHUFFLE", "y:f32", "y_flat:f32"), Layer("SHUFFLE", "sum:f32", "sum_flat:f32")
    assert pinned("", Layer("GATHER", "w:f32", "x:f32"), weight, layer, y, total)
    assert (y.precision, total.precision) == ("f16", stream)


def test_the_outputs_of_a_plugin_of_others_are_what_tensorrt_says() -> None:
    layer = Layer("PLUGIN_V2", "x:f16", "a:f16 b:f32", Plugin("Other"))
    a, b = Layer("SHUFFLE", "a:f16", "a_flat:f32"), Layer("SHUFFLE", "b:f32", "b_flat:f32")
    assert pinned("x:f16", layer, a, b)
    assert (a.precision, b.precision) == ("f16", "f32")


def test_a_float32_network_is_left_as_it_is() -> None:
    layer = Layer("MATRIX_MULTIPLY", "x:f32 w:f32", "y:f32")
    assert not pinned("x:f32", Layer("CONSTANT", "", "w:f32", weights="float32"), layer)
    assert layer.precision is None
