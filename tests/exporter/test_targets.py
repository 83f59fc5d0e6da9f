"""Passes of the user's own run on the finished graph, and one that spoils it is named."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from seqexport.exporter.passes.fuse_linear import fuse_linear
from seqexport.exporter.passes.graph_pass import GraphPass
from seqexport.exporter.pipeline import ExportOptions, export
from seqexport.exporter.targets import PASSES, finish_for
from seqexport.plugins.errors import UserError
from seqexport.runtimes.backends import open_runner
from seqexport.runtimes.comparison.reference import read_reference
from seqexport.runtimes.comparison.verify import verify
from seqexport.runtimes.quiet import quiet
from tests.conftest import Saved
from tests.exporter.handmade import X, Y, model


class RenameFirst(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph[0].name = "mine"
        return ir.passes.PassResult(model, modified=True)


class Copied(ir.passes.FunctionalPass):
    """Gives another model, and leaves the one it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.seen = [node.domain for node in model.graph]
        return ir.passes.PassResult(model.clone(), modified=False)


class Spoil(ir.passes.InPlacePass):
    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil = spoil

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.spoil(model.graph)
        return ir.passes.PassResult(model, modified=True)


def small() -> ir.Model:
    return model(X, Y, "a = Relu (x) y = Neg (a)")


def test_own_passes_run_last_and_are_in_the_bundle(checkpoint: Saved, tmp_path: Path) -> None:
    copied, options = Copied(), ExportOptions(model=str(checkpoint("mamba")), target="ort")
    with quiet():
        bundle = export(options, tmp_path / "out", lambda stage: nullcontext(), passes=[RenameFirst(), copied])
    assert "seqexport.ort" in copied.seen  # the target's passes had run
    assert ir.load(bundle.model).graph[0].name == "mine"
    with open_runner("ort", bundle) as runner:
        assert all(check.passed for check in verify(runner, read_reference(bundle)))


def fail(graph: ir.Graph) -> None:
    raise ZeroDivisionError("over\nzero")


def unsorted(graph: ir.Graph) -> None:
    first = graph[0]
    graph.remove(first)
    graph.append(first)


def renamed(graph: ir.Graph) -> None:
    graph.outputs[0].name = "z"


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (fail, "pass Spoil failed: ZeroDivisionError: over zero"),
        (unsorted, "pass Spoil leaves a graph that is not valid: "),
        (renamed, "pass Spoil changes inputs or outputs (y, z); runtimes need them as they were"),
    ],
)
def test_a_pass_that_spoils_the_graph_is_named(spoil: Any, expected: str) -> None:
    with pytest.raises(UserError) as error:
        finish_for("portable", small(), [Spoil(spoil)])
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


def test_what_is_no_pass_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected a pass of onnx_ir, got function$"):
        finish_for("portable", small(), [fail])  # type: ignore[list-item]


def test_a_failed_pass_leaves_no_bundle(checkpoint: Saved, tmp_path: Path) -> None:
    options = ExportOptions(model=str(checkpoint("mamba")))
    with quiet(), pytest.raises(UserError, match="pass Spoil failed"):
        export(options, tmp_path / "out", lambda stage: nullcontext(), passes=[Spoil(fail)])
    assert not list(tmp_path.iterdir())


def test_our_passes_take_options_and_say_what_they_are() -> None:
    names = ["divide_by_roots()", "add_in_levels()", "add_bodies()"]
    assert [str(each) for each in PASSES["portable"].passes] == names
    assert str(GraphPass(fuse_linear, most=1)) == "fuse_linear(most=1)"
