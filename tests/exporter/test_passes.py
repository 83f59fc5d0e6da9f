"""The passes: a graph of copied layers answers as one that was traced whole, and each pass does what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from seqexport.exporter import causal_lm
from seqexport.exporter.causal_lm import discover_states
from seqexport.exporter.layers import layer_stack
from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.passes.divide_by_roots import divide_by_roots
from seqexport.exporter.passes.fold_parameters import fold_parameters
from seqexport.exporter.passes.name_inputs import name_inputs
from seqexport.exporter.passes.opset_17 import to_opset_17
from seqexport.exporter.passes.reduce_angles import reduce_angles
from seqexport.exporter.passes.spell_out_shape import spell_out_shape
from seqexport.plugins.ops import DOMAIN
from seqexport.runtimes.manifest import StateSpec
from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.quiet import quiet
from tests.conftest import Saved, Trace
from tests.exporter.families import VOCAB

CAPACITY = 12
SCORING = ("gemma2",)
"""Traced with the logits of every token, as the other tests export it."""

Traced = Callable[[str], ir.Model]


@pytest.fixture(scope="session")
def traced(checkpoint: Saved, trace_once: Trace) -> Traced:
    def once(name: str) -> ir.Model:
        model = load_original(str(checkpoint(name)))
        with quiet():
            return trace_once(model, discover_states(model), opset=20, last_only=name not in SCORING)

    return once


def answers(model: ir.Model, specs: list[StateSpec]) -> dict[str, NDArray[Any]]:
    """Every output of a ragged call whose states are full of values."""
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {
        "input_ids": rng.integers(0, VOCAB, (2, 5)),
        "seq_lens": np.array([5, 3], np.int32),
        "past_lens": np.array([2, 7], np.int32),
        **{s.past_name: rng.standard_normal(s.sizes(2, CAPACITY)).astype(np.float32) for s in specs},
    }
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    inputs = {value.name for value in session.get_inputs()}
    return dict(zip(names, session.run(None, {k: v for k, v in feeds.items() if k in inputs}), strict=True))


@pytest.mark.parametrize("name", ["mamba", "llama", "gemma2", "irregular"])
def test_repeated_layers_answer_as_a_whole_trace(
    checkpoint: Saved, traced: Traced, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = load_original(str(checkpoint(name)))
    stack, specs, repeated = layer_stack(model), discover_states(model), traced(name)
    assert stack is not None
    assert len(stack.representatives) < len(stack.layers)
    monkeypatch.setattr(causal_lm, "layer_stack", lambda model: None)
    with quiet():
        whole = causal_lm.trace(model, specs, opset=20, last_only=name not in SCORING)
    for graph in (repeated, whole):
        add_bodies(graph)
    ours, expected = answers(repeated, specs), answers(whole, specs)
    assert list(ours) == list(expected)
    for output, value in expected.items():
        np.testing.assert_allclose(ours[output], value, rtol=1e-5, atol=1e-6, err_msg=output)
    assert kinds(repeated) == kinds(whole)


def kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph if node.domain == DOMAIN)


def test_no_mark_of_a_layers_edge_is_left(traced: Traced) -> None:
    for name in ("mamba", "gemma2", "irregular"):
        assert "Mark" not in kinds(traced(name))


def test_layers_of_a_kind_are_told_apart(checkpoint: Saved) -> None:
    expected = {"mamba": [0, 0], "gemma2": [0, 1, 0], "jamba": [0, 1, 0, 1], "irregular": [0, 1, 1, 0]}
    for name, layers in expected.items():
        stack = layer_stack(load_original(str(checkpoint(name))))
        assert stack is not None
        assert stack.kinds == layers


@pytest.mark.parametrize(("name", "left"), [("mamba", ["model.lm_head.weight"]), ("untied", [])])
def test_no_transpose_stands_around_the_ops_of_a_mamba(traced: Traced, name: str, left: list[str]) -> None:
    transposes = [node for node in traced(name).graph if node.op_type == "Transpose"]
    assert [value.name for node in transposes for value in node.inputs if value is not None] == left


def test_a_tied_embedding_is_stored_once_and_the_rest_is_folded(traced: Traced) -> None:
    graph = traced("mamba").graph
    sizes = Counter(tuple(v.shape.numpy()) for v in graph.initializers.values() if v.shape is not None)
    assert sizes[VOCAB, 20] == 1
    assert sizes[20, VOCAB] == 0
    folded = {name.rsplit(".", 1)[-1] for name in graph.initializers}
    assert {"transpose", "neg"} <= folded
    assert not {"Exp", "Neg"} & {node.op_type for node in graph}


def test_folding_computes_nothing_before_it_is_written() -> None:
    touched: list[str] = []

    class Weight(ir.LazyTensor):
        def numpy(self) -> NDArray[Any]:
            touched.append("numpy")
            return super().numpy()

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    weight = ir.Value(name="m.weight", shape=ir.Shape([2, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    weight.const_value = Weight(lambda: ir.tensor(array), ir.DataType.FLOAT, ir.Shape([2, 3]), name="m.weight")
    x = ir.Value(name="x", shape=ir.Shape([1, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    turned = ir.node("Transpose", [weight], {"perm": [1, 0]})
    negated = ir.node("Neg", [turned.outputs[0]])
    product = ir.node("MatMul", [x, negated.outputs[0]])
    graph = ir.Graph([x], product.outputs, nodes=[turned, negated, product], initializers=[weight], name="g")
    fold_parameters(ir.Model(graph, ir_version=10))
    assert [node.op_type for node in graph] == ["MatMul"]
    assert touched == []
    folded = product.inputs[1]
    assert folded is not None
    assert folded.const_value is not None
    np.testing.assert_array_equal(folded.const_value.numpy(), -array.T)


@pytest.mark.parametrize(("name", "norms"), [("mamba", 3), ("qwen3", 13), ("gemma2", 13)])
def test_onnx_runtime_runs_an_rms_norm_as_one_kernel(name: str, norms: int, traced: Traced, tmp_path: Path) -> None:
    model = traced(name)
    divide_by_roots(model)
    add_bodies(model)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    kernels = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kernels["SimplifiedLayerNormalization"] == norms
    assert kernels["ReduceMean"] == kernels["Reciprocal"] == 0


RMS_NORM = """<ir_version: 10, opset_import: ["": 20]>
norm ({given}[2, 8] given, {scale}[8] weight) => ({scale}[2, 8] y, float[2, 8] shared)
<float two = {{2.0}}, int64[1] axis = {{-1}}> {{
    x = Cast <to = 1> (given)
    squares = Pow (x, two)
    mean = ReduceMean (squares, axis)
    root = Sqrt (mean)
    inverse = Reciprocal (root)
    quotient = Mul (x, inverse)
    cast = Cast <to: int = {to}> (quotient)
    y = Mul (weight, {scaled})
    shared = Neg ({residual})
}}"""


@pytest.mark.parametrize(
    ("given", "scale", "residual", "kernel"),
    [
        ("float", "float16", "x", True),
        ("bfloat16", "bfloat16", "squares", True),
        ("bfloat16", "bfloat16", "x", False),  # the cast serves others too: the norm is given float32
        ("float", "bfloat16", "squares", False),
        ("bfloat16", "float", "squares", False),
        ("bfloat16", "float", "x", True),
    ],
)
def test_onnx_runtime_is_not_offered_a_norm_that_it_has_no_kernel_for(
    given: str, scale: str, residual: str, kernel: bool
) -> None:
    to = {"float": 1, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[scale]
    scaled = "quotient" if scale == "float" else "cast"
    text = RMS_NORM.format(given=given, scale=scale, to=to, scaled=scaled, residual=residual)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    divide_by_roots(model)
    nodes = [node.op_type for node in model.graph]
    assert ("Div" in nodes, "Reciprocal" in nodes) == (kernel, not kernel)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_layers_that_differ_in_their_window_share_one_body(traced: Traced, name: str) -> None:
    model = traced(name)
    add_bodies(model)
    assert list(model.functions) == [(DOMAIN, "CausalAttention", "")]
    nodes = [node for node in model.graph if node.op_type == "CausalAttention"]
    assert {(node.domain, node.overload) for node in nodes} == {(DOMAIN, "")}
    assert {node.attributes["window"].as_int() for node in nodes} == ({0} if name == "llama" else {0, 6})


def conv(bias: ir.Value | None, *, ragged: bool) -> ir.Model:
    """A graph of one CausalConv1d."""
    x, weight, past, lens = (ir.Value(name=name) for name in ("x", "weight", "past", "seq_lens"))
    inputs = [x, weight, bias, past, *([lens] if ragged else [])]
    node = ir.node("CausalConv1d", inputs, {"activation": "silu"}, domain=DOMAIN, num_outputs=2)
    given = [value for value in inputs if value is not None]
    return ir.Model(ir.Graph(given, node.outputs, nodes=[node], name="g"), ir_version=10)


@pytest.mark.parametrize(
    ("biased", "ragged", "named"),
    [
        (True, True, "x,weight,bias,past,seq_lens"),
        (False, True, "x,weight,past,seq_lens"),
        (True, False, "x,weight,bias,past"),
    ],
)
def test_a_node_names_the_inputs_it_has(biased: bool, ragged: bool, named: str) -> None:
    model = conv(ir.Value(name="bias") if biased else None, ragged=ragged)
    name_inputs(model)
    (node,) = model.graph
    assert [value.name for value in node.inputs if value is not None] == named.split(",")
    assert len(node.inputs) == len(named.split(","))
    assert node.attributes["inputs"].as_string() == named


def shape_of(start: int | None, end: int | None) -> ir.Model:
    x = ir.Value(name="x", shape=ir.Shape(["a", 3, "b"]), type=ir.TensorType(ir.DataType.FLOAT))
    given = {name: value for name, value in (("start", start), ("end", end)) if value is not None}
    node = ir.node("Shape", [x], given)
    node.outputs[0].name, node.outputs[0].type = "sizes", ir.TensorType(ir.DataType.INT64)
    last = ir.node("Identity", node.outputs)
    last.outputs[0].name, last.outputs[0].type = "y", ir.TensorType(ir.DataType.INT64)
    last.outputs[0].shape = ir.Shape(["n"])
    return ir.Model(ir.Graph([x], last.outputs, nodes=[node, last], opset_imports={"": 20}, name="g"), ir_version=10)


@pytest.mark.parametrize(("start", "end"), [(1, 2), (0, 1), (2, None), (None, 2), (-1, None), (0, -1), (-9, 9), (2, 1)])
def test_shape_without_start_and_end_gives_the_same(start: int | None, end: int | None) -> None:
    model = shape_of(start, end)
    spell_out_shape(model)
    assert not any({"start", "end"} & node.attributes.keys() for node in model.graph)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (sizes,) = session.run(None, {"x": np.zeros((5, 3, 7), np.float32)})
    assert sizes.tolist() == [5, 3, 7][start:end]


def waves(dtype: ir.DataType) -> ir.Model:
    """Cosine and sine of x."""
    x = ir.Value(name="x", shape=ir.Shape(["n"]), type=ir.TensorType(dtype))
    nodes = [ir.node(kind, [x]) for kind in ("Cos", "Sin")]
    for node in nodes:
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = node.op_type, x.type, x.shape
    outputs = [node.outputs[0] for node in nodes]
    return ir.Model(ir.Graph([x], outputs, nodes=nodes, opset_imports={"": 17}, name="g"), ir_version=10)


@pytest.mark.parametrize("largest", [0.1, 4.0, 1e3, 5e4])
def test_angles_are_reduced_exactly(largest: float) -> None:
    model = waves(ir.DataType.FLOAT)
    reduce_angles(model)
    (cosine,) = (node for node in model.graph if node.op_type == "Cos")
    model.graph.outputs.append(cosine.inputs[0])
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).uniform(-largest, largest, 10_000).astype(np.float32)
    cos, sin, angle = session.run(None, {"x": x})
    wide = x.astype(np.float64)
    assert np.abs(angle).max() <= np.pi * (1 + 1e-6) + 1e-7 * largest
    assert np.abs(np.remainder(wide - angle + 1, 2 * np.pi) - 1).max() < 3e-7
    np.testing.assert_allclose([cos, sin], [np.cos(wide), np.sin(wide)], rtol=0, atol=4e-7)


def test_one_reduction_serves_cosine_and_sine_and_float32_alone() -> None:
    model = waves(ir.DataType.FLOAT)
    reduce_angles(model)
    assert Counter(node.op_type for node in model.graph) == {
        "Mul": 4,
        "Sub": 3,
        "Add": 1,
        "Floor": 1,
        "Cos": 1,
        "Sin": 1,
    }
    half = waves(ir.DataType.FLOAT16)
    reduce_angles(half)
    assert len(half.graph) == 2 and not half.graph.initializers


@pytest.mark.parametrize("name", ["mamba", "llama"])
def test_nothing_is_left_that_old_tensorrt_misreads(traced: Traced, name: str) -> None:
    model = traced(name)
    spell_out_shape(model)
    to_opset_17(model)
    assert not any(node.op_type == "Shape" and {"start", "end"} & node.attributes.keys() for node in model.graph)
    assert model.graph.opset_imports[""] == 17
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def after_18(node: ir.Node, shape: tuple[int, ...]) -> ir.Model:
    """A graph of one node with constant further inputs, x float16."""
    x = ir.Value(name="x", shape=ir.Shape(["a", *shape[1:]]), type=ir.TensorType(ir.DataType.FLOAT16))
    node.replace_input_with(0, x)
    for index, output in enumerate(node.outputs):
        output.name, output.type, output.shape = f"y{index}", x.type, ir.Shape(["a", *shape[1:]])
    constants = [value for value in node.inputs[1:] if value is not None]
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20}, name="g", initializers=constants)
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, x: NDArray[np.float16]) -> list[NDArray[np.float16]]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def axes(*values: int) -> ir.Value:
    return ir.Value(name="axes", const_value=ir.tensor(list(values), dtype=ir.DataType.INT64))


@pytest.mark.parametrize(
    "node",
    [
        ir.node("ReduceMean", [None, axes(-1)], {"noop_with_empty_axes": 0}),
        ir.node("ReduceMax", [None, axes(0, 2)], {"keepdims": 0}),
        ir.node("ReduceSum", [None, axes(1)]),
        ir.node("Split", [None], {"axis": 2, "num_outputs": 2}, num_outputs=2),
        ir.node("Gelu", [None], {"approximate": "tanh"}),
        ir.node("Gelu", [None]),
    ],
    ids=lambda node: node.op_type,
)
def test_opset_17_computes_the_same(node: ir.Node) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float16)
    model = after_18(node, x.shape)
    before = run(model, x)
    to_opset_17(model)
    assert model.graph.opset_imports[""] == 17
    for ours, theirs in zip(run(model, x), before, strict=True):
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=2e-3, atol=1e-3)


def test_what_opset_17_lacks_keeps_its_opset() -> None:
    model = after_18(ir.node("StringSplit", [None]), (2, 3))
    to_opset_17(model)
    assert model.graph.opset_imports[""] == 20
