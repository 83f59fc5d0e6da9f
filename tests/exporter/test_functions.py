"""Bodies of an op that is used in several ways: told apart by domain, and the right one for each node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.passes.ort import lower_for_ort
from seqexport.plugins.ops import OPS
from seqexport.runtimes.trt.graph import drop_functions
from tests.exporter import handmade

WEIGHT, BIAS = handmade.values(6, 3), handmade.values(6)
GRAPH = """
y1, present1 = seqexport.CausalConv1d <activation = "none"> (x, weight, , past, lens)
y2, present2 = seqexport.CausalConv1d <activation = "silu"> (y1, weight, bias, past, lens)
y, present = seqexport.CausalConv1d <activation = "silu"> (y2, weight, bias, past, lens)
"""
FEEDS = {"x": handmade.values(2, 5, 6), "past": handmade.values(2, 6, 2), "lens": np.array([5, 3], np.int32)}
FORMS = [".2", "", ""]
"""The ends of the nodes' domains: most of them have the plain one."""


def three_nodes(finish: Callable[[ir.Model], None]) -> onnx.ModelProto:
    inputs = f"{handmade.X}, float[batch, 6, 2] past, int32[batch] lens"
    outputs = f"{handmade.Y}, float[batch, 6, 2] present"
    model = handmade.model(inputs, outputs, GRAPH, weight=WEIGHT, bias=BIAS)
    finish(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    return proto


def expected() -> list[NDArray[Any]]:
    x, past, lens, weight, bias = (torch.from_numpy(v) for v in (*FEEDS.values(), WEIGHT, BIAS))
    conv = OPS["CausalConv1d"].reference
    y1, _ = conv(x, weight, None, past, lens, "none")
    y2, _ = conv(y1, weight, bias, past, lens, "silu")
    return [value.numpy() for value in conv(y2, weight, bias, past, lens, "silu")]


@pytest.mark.parametrize(("finish", "domain"), [(add_bodies, "seqexport"), (lower_for_ort, "seqexport.ort")])
def test_forms_of_an_op_have_bodies_in_domains_of_their_own(finish: Callable[[ir.Model], None], domain: str) -> None:
    model = three_nodes(finish)
    assert [node.domain for node in model.graph.node] == [domain + form for form in FORMS]
    assert sorted(function.domain for function in model.functions) == [domain, f"{domain}.2"]
    assert not any(each.overload for each in (*model.graph.node, *model.functions))
    functions = {(each.domain, each.name): each for each in model.functions}
    for node, absent in zip(model.graph.node, ["bias", "", ""], strict=True):
        names = [name for name in OPS["CausalConv1d"].input_names if name != absent]
        assert functions[node.domain, node.op_type].input == names
        assert len(node.input) == len(names) and all(node.input)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for ours, theirs in zip(session.run(None, FEEDS), expected(), strict=True):
        np.testing.assert_allclose(ours[:, :3], theirs[:, :3], rtol=1e-5, atol=1e-6)


def test_the_reference_of_onnx_agrees() -> None:
    outputs = ReferenceEvaluator(three_nodes(add_bodies)).run(None, FEEDS)
    for ours, theirs in zip(outputs, expected(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("finish", [add_bodies, lower_for_ort])
def test_the_op_library_has_kernels_for_every_form(
    finish: Callable[[ir.Model], None], native_library: Callable[[str], Path]
) -> None:
    model = three_nodes(finish)
    del model.functions[:]
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(native_library("onnxruntime")))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for ours, theirs in zip(session.run(None, FEEDS), expected(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def with_gaps(model: onnx.ModelProto) -> None:
    """As bundles had it before: calls and functions with every input of the op, absent ones without a name."""
    every = OPS["CausalConv1d"].input_names
    for node in model.graph.node:
        (listed,) = (a for a in node.attribute if a.name == "inputs")
        given = dict(zip(listed.s.decode().split(","), node.input, strict=True))
        node.attribute.remove(listed)
        del node.input[:]
        node.input.extend(given.get(name, "") for name in every)
    for function in model.functions:
        function.attribute.remove("inputs")
        del function.input[:]
        function.input.extend(every)
    onnx.checker.check_model(model)


@pytest.mark.parametrize("is_old", [False, True])
def test_without_bodies_all_forms_are_one_op_again(is_old: bool) -> None:
    model = three_nodes(add_bodies)
    if is_old:
        with_gaps(model)
    drop_functions(model)
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {"seqexport"}
    assert all(len(node.input) == 4 + ("bias" in node.input) and all(node.input) for node in model.graph.node)
    named = [a.s.decode() for node in model.graph.node for a in node.attribute if a.name == "inputs"]
    assert named == ["x,weight,past,seq_lens"] + 2 * ["x,weight,bias,past,seq_lens"]
