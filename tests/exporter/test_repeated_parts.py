"""Of the parts of any module that repeat each other one is traced; the graph answers as the module does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from seqexport.exporter import trace
from seqexport.exporter.repeated_parts import repeated_parts
from seqexport.runtimes.quiet import quiet


class Part(nn.Module):
    """[B,L,4] to the same."""

    def __init__(self, power: float = 1.0, **settings: Any) -> None:
        super().__init__()
        self.inner, self.power = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), power
        self.register_buffer("shift", torch.rand(4))
        vars(self).update(settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) / x.shape[1] ** self.power + self.shift


class Model(nn.Module):
    """[B,L,4] to the same, with something between the parts."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = x + part(x).sin()
        return x


class Chain(Model):
    """What the last part gives is the output."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


class Turned(Model):
    """The second part is given tokens where the first has rows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.parts[0](x) + self.parts[1](x.transpose(0, 1)).transpose(0, 1)


LEFT: list[Tensor] = []


class Behind(nn.Module):
    """Reads what it is not given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * LEFT[0]


class Leaves(Model):
    """Leaves for its parts what they read: each time something else."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            LEFT[:] = [x.mean()]
            x = part(x)
        LEFT.clear()
        return x


def repeated(module: nn.Module) -> dict[str, int]:
    """The number of its kind for each part that is repeated."""
    stack = repeated_parts(module, lambda: module(torch.rand(2, 3, 4)))
    return {} if stack is None else dict(zip(stack.names, stack.kinds, strict=True))


WHOLE, INNER = {"parts.0": 0, "parts.1": 0}, {"parts.0.inner": 0, "parts.1.inner": 0}
"""Of two parts: they are alike, or what is inside of them is."""


def answered(module: nn.Module) -> tuple[ir.Model, Tensor, Tensor]:
    """The graph, what it answers, and what the module does."""
    axes = {"x": {0: "batch", 1: "tokens"}}
    with quiet():
        graph = trace.trace_module(module, {"x": torch.rand(3, 3, 4)}, axes).graph
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.rand(2, 5, 4)
    with torch.no_grad():
        return graph, torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), module(x)


def count(graph: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in graph.graph)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.DEBUG, logger="seqexport")
    return lambda: [each.getMessage() for each in caplog.records if each.name.startswith("seqexport.")]


@pytest.mark.parametrize("model", [Model, Chain])
def test_one_part_of_each_kind_is_traced(
    model: type[Model], monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    module, runs, forward = model(Part(), Part(2.0), Part(), Part(2.0), Part()), [0] * 5, Part.forward

    def noted(self: Part, x: Tensor) -> Tensor:
        runs[list(module.parts).index(self)] += 1
        return forward(self, x)

    monkeypatch.setattr(Part, "forward", noted)
    graph, ours, expected = answered(module)
    torch.testing.assert_close(ours, expected)
    assert runs[0] == runs[1] > runs[2] == runs[3] == runs[4]
    assert (count(graph, "MatMul") + count(graph, "Gemm"), count(graph, "Mark")) == (5, 0)
    assert {f"parts.{index}.shift" for index in range(5)} <= graph.graph.initializers.keys()
    assert said() == []


def one(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ({}, {}, True),
        ({"power": 2.0}, {"power": 2.0}, True),
        ({"power": 1}, {"power": 1.0}, False),
        ({"order": [0, 1]}, {"order": [0, 1]}, True),
        ({"order": [0, 1]}, {"order": [1, 0]}, False),
        ({"act": one}, {"act": one}, True),
        ({"act": one}, {"act": lambda x: x}, False),
        ({"table": torch.zeros(2)}, {"table": torch.zeros(2)}, False),
        ({"layer_idx": 0}, {"layer_idx": 1}, False),
    ],
)
def test_parts_are_alike_in_every_setting(first: dict[str, Any], second: dict[str, Any], alike: bool) -> None:
    assert repeated(Model(Part(**first), Part(**second))) == (WHOLE if alike else INNER)


def test_parts_that_are_called_in_another_way_are_not_repeated() -> None:
    part = Part()
    assert repeated(Model(part, part)) == {}
    assert repeated(Model(Part(), nn.Sequential(Part()))) == {"parts.0": 0, "parts.1.0": 0}
    hooked = Model(Part(), Part())
    hooked.parts[1].register_forward_hook(lambda module, args, output: None)
    assert repeated(hooked) == INNER


def test_parts_of_repeated_parts_are_not_repeated_by_themselves() -> None:
    module = Model(nn.Sequential(Part(), Part()), nn.Sequential(Part(), Part()))
    assert repeated(module) == WHOLE


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Leaves(Behind(), Behind()), "layer 0 reads more than it is given"),
        (Turned(Part(), Part()), "is not given what layer 0 is"),
    ],
)
def test_parts_that_only_seem_alike_are_traced_whole(module: Model, reason: str, said: Callable[[], list[str]]) -> None:
    _, ours, expected = answered(module)
    torch.testing.assert_close(ours, expected)
    (told,) = said()
    assert told.startswith(f"{type(module).__name__} is traced whole, not a part of each kind: ")
    assert reason in told
