"""Any module becomes a graph that answers as the module does, for other sizes than it was traced with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

import seqexport.plugins.ops  # noqa: F401
from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.trace import Traced, trace_module
from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import StateSpec
from seqexport.runtimes.quiet import quiet
from tests.ops.conformance import assert_as_accurate_as_torch

CHANNELS, N = 6, 5


class Filter(nn.Module):
    """A convolutional network over frames, in training mode as it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 2)

    def forward(self, frames: Tensor, gain: Tensor | None = None) -> dict[str, Any]:
        hidden = self.drop(torch.relu(self.norm(self.conv(frames))))
        scores = self.head(hidden.mean(-1) if gain is None else hidden.mean(-1) * gain)
        return {"scores": scores, "hidden": {"last": hidden[..., -1], "none": None}}


class Scan(nn.Module):
    """Our op called directly, on two inputs, its state explicit."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.A = nn.Parameter(-torch.rand(CHANNELS, N, generator=generator) - 0.1)
        self.mix = nn.Parameter(torch.randn(CHANNELS, 2 * N, generator=generator) * 0.3)

    def forward(self, x: Tensor, step: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        B, C = (x @ self.mix).unsqueeze(2).chunk(2, dim=-1)
        y, after = torch.ops.seqexport.selective_scan(x, step, self.A, B, C, None, None, None, h, None, 1)
        return y, after


def run(traced: Traced, feeds: Mapping[str, Tensor]) -> dict[str, Any]:
    graph = traced.graph.clone()
    add_bodies(graph)
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    answers = session.run(None, {name: x.numpy() for name, x in feeds.items()})
    return dict(zip(names, map(torch.from_numpy, answers), strict=True))


def interface(values: Any) -> dict[str, list[Any]]:
    return {v.name: [axis if isinstance(axis, int) else axis.value for axis in v.shape] for v in values}


def trace(module: nn.Module, *args: Any, **options: Any) -> Traced:
    with quiet():
        return trace_module(module, *args, **options)


def test_a_convolutional_network_answers_as_pytorch_and_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    module = Filter()
    module.norm.running_mean.normal_()
    module.norm.eval()
    modes = [each.training for each in module.modules()]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    traced = trace(module, {"frames": torch.zeros(2, 4, 7)}, {"frames": {0: "items", -1: "length"}})
    assert interface(traced.graph.graph.inputs) == {"frames": ["items", 4, "length"]}
    assert interface(traced.graph.graph.outputs) == {"scores": ["items", 2], "hidden.last": ["items", 8]}
    assert traced.states == ()
    assert {"conv.weight", "head.bias"} <= set(traced.graph.graph.initializers)
    assert [each.training for each in module.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    frames = torch.randn(5, 4, 23)
    ours, module = run(traced, {"frames": frames}), module.eval()
    with torch.no_grad():
        theirs, exact = module(frames), module.double()(frames.double())
    for name, pick in {"scores": lambda x: x["scores"], "hidden.last": lambda x: x["hidden"]["last"]}.items():
        assert_as_accurate_as_torch([ours[name]], [pick(theirs)], [pick(exact)], torch.float32)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 17), (2, 3)])
def test_a_module_that_calls_our_op_carries_its_state_by_name(batch: int, length: int) -> None:
    module = Scan()
    inputs = {"x": torch.zeros(2, 3, CHANNELS), "step": torch.zeros(2, 3, CHANNELS), "h": torch.zeros(2, CHANNELS, N)}
    tokens = {0: "rows", 1: "time"}
    traced = trace(module, inputs, {"x": tokens, "step": tokens, "h": {0: "rows"}}, {"h": "output_1"})
    state = StateSpec(layer=0, kind="state", shape=("rows", CHANNELS, N), dtype="float32", past="h", present="output_1")
    assert traced.states == (state,)
    assert [node.op_type for node in traced.graph.graph if node.domain == "seqexport"] == ["SelectiveScan"]
    assert interface(traced.graph.graph.inputs)["step"] == ["rows", "time", CHANNELS]
    x, step = torch.randn(2, batch, length, CHANNELS).unbind()
    feeds = {"x": x, "step": step, "h": torch.randn(batch, CHANNELS, N)}
    ours = run(traced, feeds)
    with torch.no_grad():
        theirs, exact = module(**feeds), module.double()(**{name: value.double() for name, value in feeds.items()})
    assert_as_accurate_as_torch([ours["output_0"], ours["output_1"]], theirs, exact, torch.float32)


class Pair(NamedTuple):
    low: Tensor
    high: Tensor


@dataclass
class Both:
    pair: Pair
    whole: Tensor


class Returns(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda x: x + 1, ["output"]),
        (lambda x: (x + 1, None, [x + 2, x + 3]), ["output_0", "output_2.0", "output_2.1"]),
        (lambda x: Both(Pair(x - 1, x + 1), x * 2), ["pair.low", "pair.high", "whole"]),
        (lambda x: {"first": x + 1, "again": x + 1}, ["first", "again"]),
        (lambda x: {"same": x}, ["same"]),
    ],
)
def test_outputs_have_the_names_that_the_module_gives_them(make: Any, names: list[str]) -> None:
    module = Returns(make)
    traced = trace(module, {"x": torch.zeros(2, 3)}, {"x": {0: "n"}})
    assert [value.name for value in traced.graph.graph.outputs] == names
    answers = run(traced, {"x": torch.randn(4, 3)})
    assert list(answers) == names
    assert all(answer.shape == (4, 3) for answer in answers.values())


def test_an_input_that_nothing_reads_is_left_out() -> None:
    traced = trace(Filter(), {"frames": torch.zeros(2, 4, 7), "gain": torch.zeros(8)})
    assert [value.name for value in traced.graph.graph.inputs] == ["frames", "gain"]
    dropped = trace(Returns(lambda x: torch.ones(2)), {"x": torch.zeros(2)})
    assert not dropped.graph.graph.inputs


X = torch.zeros(2, 3)
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no such input": (lambda x: x, {"inputs": {"y": X}}, "inputs y: Returns.forward: missing a required argument: 'x'"),
    "no tensor": (lambda x: x, {"inputs": {"x": 3}}, "input x: expected a tensor, got int"),
    "axes of nothing": (lambda x: x, {"dynamic_axes": {"z": {0: "n"}}}, "dynamic axes of z: the inputs are x"),
    "no such axis": (lambda x: x, {"dynamic_axes": {"x": {2: "n"}}}, "axis 2 (n) of x: its example has 2 axes"),
    "one": (
        lambda x: x,
        {"inputs": {"x": X[:1]}, "dynamic_axes": {"x": {0: "n"}}},
        "axis 0 (n) of x: 1 in the example; give at least 2",
    ),
    "two sizes": (
        lambda x: x,
        {"dynamic_axes": {"x": {0: "n", 1: "n"}}},
        "axis 1 (n) of x: 3, and 2 elsewhere; give one size",
    ),
    "a fixed axis": (
        lambda x: x + torch.ones(2, 3),
        {"dynamic_axes": {"x": {0: "n"}}},
        "Returns cannot be exported: axis 0 (n) of x has one size only, 2: leave it out of the axes",
    ),
    "no tensors": (lambda x: {"y": "text"}, {}, "Returns cannot be exported: it returns a str as y; expected tensors"),
    "no such state": (lambda x: x + 1, {"states": {"h": "output"}}, "state h: no such input, or nothing reads it"),
    "no state after": (
        lambda x: x + 1,
        {"states": {"x": "h"}},
        "state x: no output h after the call; there are output",
    ),
    "another shape after": (
        lambda x: x[0] + 1,
        {"states": {"x": "output"}},
        "state x is float32 [2, 3] before a call, and output is float32 [3] after it; expected one dtype and shape",
    ),
    "one name twice": (lambda x: {"x": x + 1}, {}, "Returns cannot be exported: its output x has the name of an input"),
    "an unknown error": (lambda x: 1 / 0, {}, "Returns cannot be exported: <lambda>() at line "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_clear_line(case: str) -> None:
    make, given, expected = REFUSED[case]
    module = Returns(make)
    with pytest.raises(UserError) as error:
        trace(module, **{"inputs": {"x": X}, **given})
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)
