"""Only what is exactly a no-op leaves a graph."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from seqexport.exporter.passes.simplify import simplify
from seqexport.runtimes.quiet import quiet

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n] x) => (float[n] y) <float c = {{{number}}}> {{ a = Neg(x) b = {op}({first}, {second}) y = Neg(b) }}"""
NO_OPS = [("Add", 0.0, True), ("Mul", 1.0, True), ("Sub", 0.0, False), ("Div", 1.0, False)]
NEAR = [*(("Add", each) for each in (1e-8, 1e-12, 1e-20, -1e-30)), ("Sub", 1e-9), ("Mul", 1.000002), ("Div", 0.999999)]


def kinds(op: str, number: float, *, constant_first: bool = False) -> list[str]:
    first, second = ("c", "a") if constant_first else ("a", "c")
    proto = onnx.parser.parse_model(TEXT.format(op=op, number=repr(number), first=first, second=second))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    simplify(model)
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(("op", "number", "commutes"), NO_OPS)
def test_a_no_op_is_gone(op: str, number: float, commutes: bool) -> None:
    assert op not in kinds(op, number)
    assert (op in kinds(op, number, constant_first=True)) == (not commutes)


@pytest.mark.parametrize(("op", "number"), NEAR)
def test_what_is_nearly_one_stays(op: str, number: float) -> None:
    assert op in kinds(op, number)
    assert op in kinds(op, number, constant_first=True)


class Unit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().sum(-1, keepdim=True) + 1e-12).sqrt()


def test_an_epsilon_of_a_module_is_in_its_graph() -> None:
    with quiet():
        program = torch.onnx.export(Unit().eval(), (torch.ones(2, 3),), dynamo=True, verbose=False, optimize=False)
    assert program is not None
    model = program.model
    simplify(model)
    session = pytest.importorskip("onnxruntime").InferenceSession(ir.to_proto(model).SerializeToString())
    (y,) = session.run(None, {session.get_inputs()[0].name: torch.zeros(2, 3).numpy()})
    assert (y == 0).all()
