"""Root mean square norms of target ``tensorrt``: those that RmsNorm takes over, and those that stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from seqexport.exporter.passes.fold_parameters import fold_parameters
from seqexport.exporter.passes.fuse_rms_norm import fuse_rms_norm
from tests.exporter.handmade import Array, X, Y, fused, model, names, node_of, values

UNIT = """
    squares = Pow (s, two)
    mean = ReduceMean <keepdims = 1> (squares, last)
    shifted = Add (mean, epsilon)
    root = Sqrt (shifted)
    inverse = Reciprocal (root)
    unit = Mul (s, inverse)
"""
HALF = "s = Cast <to = 1> (total) " + UNIT + " narrow = Cast <to = 10> (unit) y = Mul (weight, narrow)"
"""Of total, float16."""


def norm(inputs: str, outputs: str, body: str, **constants: Array) -> ir.Model:
    given = {"two": np.float32(2), "last": np.array([-1]), "epsilon": np.float32(1e-5), "weight": values(6)}
    return model(inputs, outputs, body, **{name: np.asarray(x) for name, x in {**given, **constants}.items()})


def test_an_rms_norm_is_one_node() -> None:
    graph = norm(X, Y, "s = Identity (x) " + UNIT + " y = Mul (unit, weight)")
    assert fused(graph, fuse_rms_norm) == {"Identity": 1, "RmsNorm": 1}
    node = node_of(graph, "RmsNorm")
    assert names(node)[1:] == ["weight"]
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-5)
    assert node.attributes["wide"].as_int() == 0


@pytest.mark.parametrize("order", ["stream, x", "x, stream"])
def test_a_norm_takes_the_residual_sum_that_others_read(order: str) -> None:
    graph = norm(
        "float16[batch, seq, 6] before, float16[batch, seq, 6] x",
        "float16[batch, seq, 6] y, float16[batch, seq, 6] after, float16[batch, seq, 6] other",
        f"stream = Neg (before) total = Add ({order}) {HALF} after = Neg (total) other = Neg (stream)",
        weight=values(6, dtype=np.float16),
    )
    assert fused(graph, fuse_rms_norm) == {"Neg": 3, "RmsNorm": 1}
    node = node_of(graph, "RmsNorm")
    assert names(node) == ["x", "weight", "stream"]
    assert node.attributes["wide"].as_int() == 0
    assert node.outputs[1].name == "total"


def test_a_float32_stream_stays_so_and_the_weight_is_of_the_type_of_x() -> None:
    """Mamba's last norm: x is cast to the stream's type, a weight too, and the result back."""
    graph = norm(
        "float[batch, seq, 6] stream, float16[batch, seq, 6] x",
        "float16[batch, seq, 6] y, float[batch, seq, 6] s",
        "wide = Cast <to = 1> (x) s = Add (stream, wide) cast = Cast <to = 1> (weight)"
        + UNIT + "scaled = Mul (cast, unit) y = Cast <to = 10> (scaled)",
        weight=values(6, dtype=np.float16),
    )  # fmt: skip
    assert fused(graph, fold_parameters, fuse_rms_norm) == {"RmsNorm": 1}
    node = node_of(graph, "RmsNorm")
    assert node.attributes["wide"].as_int() == 1
    assert [value.dtype.short_name() for value in node.inputs if value is not None and value.dtype] == [
        "f16", "f16", "f32",
    ]  # fmt: skip
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), values(6, dtype=np.float16))
    assert len(graph.graph.initializers) == 1


def test_a_float32_stream_begins_at_a_norm() -> None:
    """Mamba's first norm, whose input others read in float32; a cast from float32 to float32 is passed over."""
    graph = norm(
        "float16[batch, seq, 6] x",
        "float16[batch, seq, 6] y, float[batch, seq, 6] after",
        HALF.replace("(total)", "(x)") + " after = Neg (s)",
        weight=values(6, dtype=np.float16),
    )
    assert fused(graph, fuse_rms_norm) == {"RmsNorm": 1, "Neg": 1}
    assert node_of(graph, "RmsNorm").attributes["wide"].as_int() == 1
    copied = "total = Add (x, x_) s = Cast <to = 1> (total) after = Neg (total)" + UNIT + "y = Mul (unit, weight)"
    graph = norm(f"{X}, float[batch, seq, 6] x_", f"{Y}, float[batch, seq, 6] after", copied)
    assert fused(graph, fuse_rms_norm) == {"RmsNorm": 1, "Neg": 1}


SCALED = "y = Mul (unit, weight)"
OTHER_NORMS = {
    "over another axis": ({"last": np.array([1])}, SCALED),
    "that takes a mean away": ({}, SCALED),
    "of cubes": ({"two": np.float32(3)}, SCALED),
    "with one weight for all": ({"weight": values(1)}, SCALED),
    "with a computed weight": ({}, "more = Add (weight, two) y = Mul (unit, more)"),
    "whose weight float16 cannot hold": (
        {},
        "wide = Mul (unit, weight) y_ = Cast <to = 10> (wide) y = CastLike (y_, x)",
    ),
    "whose inner value another reads": ({}, SCALED + " seen = Neg (unit)"),
}


@pytest.mark.parametrize("case", OTHER_NORMS)
def test_another_norm_stays(case: str) -> None:
    constants, end = OTHER_NORMS[case]
    outputs = f"{Y}, float[batch, seq, 6] seen" if "seen" in end else Y
    begin = "m = ReduceMean (x, last) s = Sub (x, m)" if "mean" in case else "s = Identity (x)"
    graph = norm(X, outputs, f"{begin} {UNIT} {end}", **constants)
    assert "RmsNorm" not in fused(graph, fuse_rms_norm)


def test_a_norm_of_each_head_stays() -> None:
    graph = norm("float[batch, seq, 2, 6] s", "float[batch, seq, 2, 6] y", UNIT + SCALED)
    assert "RmsNorm" not in fused(graph, fuse_rms_norm)


GROUPS = UNIT.replace("(s, ", "(grouped, ")
GATE = "z_wide = Cast <to = 1> (z) sigmoid = Sigmoid (z_wide) gate = Mul (z_wide, sigmoid)"
MAMBA2 = (
    GATE
    + " x_wide = Cast <to = 1> (x) s = Mul (x_wide, gate) grouped = Reshape (s, in_groups)"
    + GROUPS
    + """
    whole = Reshape (unit, in_one) narrow = Cast <to = 10> (whole) y = Mul (weight, narrow)
"""
)
BEFORE_GATE = (
    "s = Cast <to = 1> (x) grouped = Reshape (s, in_groups)"
    + GROUPS
    + GATE
    + """
    weights = Reshape (weight, of_groups) weight_wide = Cast <to = 1> (weights) scaled = Mul (weight_wide, unit)
    whole = Reshape (scaled, in_one) gated = Mul (whole, gate) y = Cast <to = 10> (gated)
"""
)
HALVES = "float16[batch, seq, 6] x, float16[batch, seq, 6] z"


def gated_norm(body: str, outputs: str = "float16[batch, seq, 6] y", groups: int = 2, **constants: Array) -> ir.Model:
    shapes = {"in_groups": [0, 0, groups, 6 // groups], "of_groups": [groups, 6 // groups], "in_one": [0, 0, 6]}
    constants |= {name: np.array(shape) for name, shape in shapes.items()}
    return norm(HALVES, outputs, body, weight=values(6, dtype=np.float16), **constants)


@pytest.mark.parametrize(("body", "norm_before_gate"), [(MAMBA2, 0), (BEFORE_GATE, 1)], ids=["Mamba-2", "Falcon-H1"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_gated_norm_in_groups_is_one_node(body: str, norm_before_gate: int, groups: int) -> None:
    graph = gated_norm(body, groups=groups)
    assert fused(graph, fuse_rms_norm) == {"RmsNorm": 1}
    node = node_of(graph, "RmsNorm")
    assert names(node) == ["x", "weight", None, "z"]
    attributes = {name: node.attributes[name].as_int() for name in ("groups", "norm_before_gate", "wide")}
    assert attributes == {"groups": groups, "norm_before_gate": norm_before_gate, "wide": 0}


def test_a_gated_value_that_others_read_stays() -> None:
    graph = gated_norm(MAMBA2 + " seen = Neg (s)", "float16[batch, seq, 6] y, float[batch, seq, 6] seen")
    assert "RmsNorm" not in fused(graph, fuse_rms_norm)


def test_a_norm_of_each_head_in_groups_stays() -> None:
    """One weight for the channels of any head, as Qwen3 norms queries."""
    body = MAMBA2.replace("whole = Reshape (unit, in_one) narrow = Cast <to = 10> (whole) y = Mul (weight, narrow)", "")
    graph = gated_norm(body + "part = Cast <to = 1> (each) scaled = Mul (part, unit) whole = Reshape (scaled, in_one)"
                       "y = Cast <to = 10> (whole)", each=values(3, dtype=np.float16))  # fmt: skip
    assert "RmsNorm" not in fused(graph, fuse_rms_norm)
