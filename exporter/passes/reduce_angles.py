"""Target ``tensorrt``: what Cos and Sin are given lies in [-pi, pi], give or take a rounding.

CUDA's fast sine and cosine, which TensorRT may use, have an error in proportion to the angle: with TensorRT 8.6.0 on an
H100, a Llama's float32 keys were off by 4.4 times PyTorch's error after 2000 tokens, growing with the position. So the
multiple of 2 pi goes before they see it (Cody & Waite 1980, "Software manual for the elementary functions", chapter 8):
k = floor(x / 2 pi + 1/2), then x - k * c1 - k * c2 - k * c3 with c1 + c2 + c3 = 2 pi, where k * c1 is exact below an
angle of 400000, and k * c2 below 50000.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.tape import Tape

from seqexport.exporter.passes.parameters import float_scalar

C1 = 6.28125
C2 = 1.93500518798828125e-3
C3 = (math.tau - C1) - C2
CONSTANTS = {"per_turn": 1 / math.tau, "half": 0.5, "c1": C1, "c2": C2, "c3": C3}


def reduce_angles(model: ir.Model) -> None:
    nodes = [node for node in model.graph if node.domain == "" and node.op_type in ("Cos", "Sin")]
    wide = [node for node in nodes if node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.FLOAT]
    if not wide:
        return
    constants = {name: float_scalar(model.graph, f"angle_{name}", value) for name, value in CONSTANTS.items()}
    reduced: dict[ir.Value, ir.Value] = {}
    for node in wide:
        angle = node.inputs[0]
        assert angle is not None
        if angle not in reduced:
            tape = Tape()
            reduced[angle] = _reduce(angle, lambda kind, *inputs, tape=tape: tape.op(kind, inputs), constants)
            for index, made in enumerate(tape.nodes):
                made.outputs[0].name = f"{angle.name}_reduced_{index}"
                made.outputs[0].shape, made.outputs[0].type = angle.shape, angle.type
            model.graph.insert_before(node, tape.nodes)
        node.replace_input_with(0, reduced[angle])


def _reduce(angle: ir.Value, op: Callable[..., ir.Value], constants: dict[str, ir.Value]) -> ir.Value:
    turns = op("Floor", op("Add", op("Mul", angle, constants["per_turn"]), constants["half"]))
    for name in ("c1", "c2", "c3"):
        angle = op("Sub", angle, op("Mul", turns, constants[name]))
    return angle
