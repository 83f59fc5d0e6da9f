"""What the library answers to a wrong node: a status that names the op, the input, what was expected and what came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch

from seqexport.plugins.ops import OPS
from tests.onnxruntime.library_ops import PROVIDERS, LibraryOps, one_node, session_options
from tests.ops import (
    test_causal_attention,
    test_causal_conv1d,
    test_embedding,
    test_last_token,
    test_linear,
    test_rms_norm,
    test_rotary_embedding,
    test_selective_scan,
)

ATTENTION, CONV, SCAN = OPS["CausalAttention"], OPS["CausalConv1d"], OPS["SelectiveScan"]
EMBEDDING, LAST, LINEAR = OPS["Embedding"], OPS["LastToken"], OPS["Linear"]
NORM, ROTARY = OPS["RmsNorm"], OPS["RotaryQueryKey"]
attention, conv, scan = test_causal_attention.make, test_causal_conv1d.make, test_selective_scan.make
embedding, last_token, linear = test_embedding.make, test_last_token.make, test_linear.make
norm, rotary = test_rms_norm.make, test_rotary_embedding.make


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("op", "values", "message"),
    [
        (CONV, conv() | {"past": torch.zeros(2, 6, 4)}, r"past: expected \[B, D, K-1\] = \[2, 6, 3\], got \[2, 6, 4\]"),
        (CONV, conv() | {"weight": torch.zeros(5, 4)}, r"weight: expected \[D, K\] = \[6, 4\], got \[5, 4\]"),
        (CONV, conv() | {"weight": torch.zeros(6, 65)}, "weight: expected K in 1 to 64, got 65"),
        (CONV, conv() | {"bias": torch.zeros(6, 1)}, r"bias: expected 1 axes, got shape \[6, 1\]"),
        (CONV, conv() | {"bias": torch.zeros(6).half()}, "bias: expected float32 as the inputs before it, got float16"),
        (CONV, conv() | {"past": None}, "past is missing; it is not optional"),
        (CONV, conv() | {"seq_lens": torch.ones(2).long()}, "seq_lens: expected int32, got int64"),
        (CONV, {k: v.double() for k, v in conv(without=["seq_lens"]).items() if v is not None},
         "x: expected float32, float16 or bfloat16, got float64"),
        (SCAN, scan() | {"A": torch.zeros(6, 4).half()}, "A: expected float32, got float16"),
        (SCAN, scan() | {"B": torch.zeros(2, 5, 7, 4)}, "B: expected G in 1 to 6, got 7"),
        (SCAN, scan() | {"z": torch.zeros(2, 4, 6)}, r"z: expected \[B, L, D\] = \[2, 5, 6\], got \[2, 4, 6\]"),
        (SCAN, scan(length=0), "x: expected L in 1 to 2147483647, got 0"),
        (ATTENTION, attention(Hq=3), "key: expected Hkv that divides the Hq = 3 of query, got Hkv = 2"),
        (ATTENTION, attention(Dh=257), "query: expected Dh in 1 to 256, got 257"),
        (ATTENTION, attention(past_lens=[7, 8]), "past_lens: expected 0 to S - seq_lens = 7, got 8 in row 1"),
        (ATTENTION, attention(past_lens=[-1, 0]), "past_lens: expected 0 to S - seq_lens = 7, got -1 in row 0"),
        (ATTENTION, attention(seq_lens=[6, 0]), "seq_lens: expected 0 to L = 5, got 6 in row 0"),
        (EMBEDDING, embedding() | {"ids": torch.zeros(2, 3).long()}, "ids: expected int32, got int64"),
        (EMBEDDING, embedding(D=0), "weight: expected D in 1 to 2147483647, got 0"),
        (LAST, last_token() | {"seq_lens": int32(5, 5)}, r"seq_lens: expected \[B\] = \[3\], got \[2\]"),
        (LINEAR, linear() | {"weight": torch.zeros(24, 15)}, r"weight: expected \[N, K\] = \[24, 16\], got \[24, 15\]"),
        (LINEAR, linear() | {"weight2": torch.zeros(5, 16).half()},
         "weight2: expected float32 as the inputs before it, got float16"),
        (LINEAR, linear() | {"bias2": torch.zeros(8)}, r"bias2: expected \[N2\] = \[5\], got \[8\]"),
        (LINEAR, linear() | {"weight1": None}, "weight2 is given without weight1"),
        (LINEAR, linear(features=(24,)) | {"bias1": torch.zeros(8)}, "bias1 is given without its weight"),
        (NORM, norm() | {"weight": torch.zeros(23)}, r"weight: expected \[D\] = \[24\], got \[23\]"),
        (NORM, norm(dtype=torch.float16, wide=1),
         "residual: expected float16 as the inputs before it, got float32"),
        (ROTARY, rotary(R=14) | {"cos": torch.zeros(2, 3, 15)}, "cos: expected an even R, got 15"),
        (ROTARY, rotary(R=18), "cos: expected R in 2 to 16, got 18"),
        (ROTARY, rotary() | {"sin": torch.zeros(2, 3, 8)},
         r"sin: expected \[B, L, R\] = \[2, 3, 16\], got \[2, 3, 8\]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_inputs(library: Path, op: Any, values: Any, message: str) -> None:
    with pytest.raises(Exception, match=f"{op.name}: input {message}"):
        LibraryOps(library).run(op, values)


@pytest.mark.parametrize(
    ("op", "values", "attributes", "message"),
    [
        (CONV, conv(), {"activation": "gelu"}, "activation: expected 'none' or 'silu', got 'gelu'"),
        (CONV, conv(), {"activation": 1}, "activation: expected a string, got another type"),
        (SCAN, scan(), {"dt_softplus": 2}, "dt_softplus: expected 0 or 1, got 2"),
        (SCAN, scan(), {"dt_softplus": 1.5}, "dt_softplus: expected an integer, got another type"),
        (NORM, norm(), {"epsilon": -1.0}, "epsilon: expected a finite number, 0 or more, got -1"),
        (NORM, norm(), {"wide": 2}, "wide: expected 0 or 1, got 2"),
        (ATTENTION, attention(), {"window": -1}, r"window: expected 0 \(all\) to 2147483647, got -1"),
        (ATTENTION, attention(), {"softcap": float("nan")}, "softcap: expected a finite number, 0 or more, got nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_attributes(library: Path, op: Any, values: Any, attributes: Any, message: str) -> None:
    with pytest.raises(Exception, match=f"{op.name}: attribute {message}"):
        LibraryOps(library).run(op, values, attributes)


def test_lengths_out_of_range_are_clipped_where_no_memory_depends_on_them(library: Path) -> None:
    wild, clipped = (LibraryOps(library).run(SCAN, scan() | {"seq_lens": int32(*lens)}, {"dt_softplus": 1})
                     for lens in ((900, -3), (5, 0)))  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(wild, clipped, strict=True))


@pytest.mark.parametrize("without", [(), ("D", "z"), ("D", "z", "dt_bias", "seq_lens")], ids=str)
def test_absent_inputs_may_be_left_out_by_name(library: Path, without: Any) -> None:
    values = scan(without=without)
    given = tuple((k, v.dtype, v.dim()) for k, v in values.items() if v is not None)
    model = one_node("SelectiveScan", given, {"dt_softplus": 1}, named=True)
    session = ort.InferenceSession(model, session_options(library), providers=[PROVIDERS["cpu"]])
    outputs = session.run(None, {k: values[k].numpy() for k, _, _ in given})
    expected = LibraryOps(library).run(SCAN, values, {"dt_softplus": 1})
    assert all((a == b.numpy()).all() for a, b in zip(outputs, expected, strict=True))


@pytest.mark.parametrize(("listed", "message"), [
    ("x,weight,past,x", "twice input 'x'; got 'x,weight,past,x'"),
    ("x,,weight,past", "it has no input ''; got 'x,,weight,past'"),
    ("x,weight,passed", "it has no input 'passed'; got 'x,weight,passed'"),
    ("bias,seq_lens,weight,past,x", "input x is missing; it is not optional"),
])  # fmt: skip
def test_names_that_do_not_fit_the_inputs(library: Path, listed: str, message: str) -> None:
    values = {k: v for k, v in conv(without=["bias", "seq_lens"]).items() if v is not None}
    model = onnx.load_from_string(one_node("CausalConv1d", tuple((k, v.dtype, v.dim()) for k, v in values.items()), {}))
    del model.graph.node[0].input[:]
    model.graph.node[0].input.extend(values)
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("inputs", listed))

    def run() -> None:
        session = ort.InferenceSession(model.SerializeToString(), session_options(library), [PROVIDERS["cpu"]])
        session.run(None, {k: v.numpy() for k, v in values.items()})

    with pytest.raises(Exception, match=f"CausalConv1d: (attribute inputs: )?{message}"):
        run()


@pytest.mark.parametrize("part", ["input", "output"])
def test_more_tensors_than_the_op_has(library: Path, part: str) -> None:
    values = {k: v for k, v in conv().items() if v is not None}
    model = onnx.load_from_string(one_node("CausalConv1d", tuple((k, v.dtype, v.dim()) for k, v in values.items()), {}))
    tensors = getattr(model.graph.node[0], part)
    tensors.extend(["x"] * 40 if part == "input" else [f"more {i}" for i in range(40)])
    with pytest.raises(Exception, match=f"CausalConv1d:1. has {part} size {len(tensors)} not in range"):
        ort.InferenceSession(model.SerializeToString(), session_options(library), providers=[PROVIDERS["cpu"]])


@pytest.mark.parametrize(("features", "outputs"), [((24,), ["y", "y1"]), ((24, 8), ["y"]), ((24, 8, 5), ["y", "y1"])])
def test_an_output_for_each_weight(library: Path, features: Any, outputs: list[str]) -> None:
    values = {k: v for k, v in linear(features=features).items() if v is not None}
    model = onnx.load_from_string(one_node("Linear", tuple((k, v.dtype, v.dim()) for k, v in values.items()), {}))
    del model.graph.node[0].output[:], model.graph.output[1:]
    model.graph.node[0].output.extend(outputs)
    session = ort.InferenceSession(model.SerializeToString(), session_options(library), providers=[PROVIDERS["cpu"]])
    message = f"Linear: outputs: expected {len(features)}, got {len(outputs)}"
    with pytest.raises(Exception, match=message):
        session.run(None, {k: v.numpy() for k, v in values.items()})


@pytest.mark.parametrize("features", [(24,), (24, 8), (24, 8, 5)], ids=str)
def test_an_optional_output_has_the_type_and_shape_of_its_weight(library: Path, features: Any) -> None:
    values = linear(features=features, dtype=torch.float16)
    given = tuple((k, v.dtype, v.dim()) for k, v in values.items() if v is not None)
    session = ort.InferenceSession(
        one_node("Linear", given, {}, named=True), session_options(library), providers=[PROVIDERS["cpu"]]
    )
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        (f"y{i}", "tensor(float16)", ["x_0", "x_1", f"weight{i}_0"]) for i in ("", "1", "2")[: len(features)]
    ]
    outputs = session.run(None, {k: values[k].numpy() for k, _, _ in given})
    expected = LibraryOps(library).run(LINEAR, values)
    assert all((a == b.numpy()).all() for a, b in zip(outputs, expected, strict=True))


@pytest.mark.parametrize("without", [(), ("residual",)], ids=str)
@pytest.mark.parametrize("wide", [0, 1])
def test_a_sum_has_the_type_of_its_stream(library: Path, without: Any, wide: int) -> None:
    values = norm(dtype=torch.float16, wide=wide, without=without)
    given = tuple((k, v.dtype, v.dim()) for k, v in values.items() if v is not None)
    session = ort.InferenceSession(
        one_node("RmsNorm", given, {"wide": wide}), session_options(library), providers=[PROVIDERS["cpu"]]
    )
    stream = "tensor(float)" if wide else "tensor(float16)"
    assert [(o.type, o.shape) for o in session.get_outputs()] == [
        ("tensor(float16)", ["x_0", "x_1", "x_2"]),
        (stream, ["x_0", "x_1", "x_2"]),
    ]


def test_outputs_have_their_types_and_shapes_before_anything_runs(library: Path) -> None:
    values = scan(dtype=torch.float16)
    given = tuple((k, v.dtype, v.dim()) for k, v in values.items())
    session = ort.InferenceSession(
        one_node("SelectiveScan", given, {}), session_options(library), providers=[PROVIDERS["cpu"]]
    )
    assert [(o.type, o.shape) for o in session.get_outputs()] == [
        ("tensor(float16)", ["x_0", "x_1", "x_2"]),
        ("tensor(float)", ["past_0", "past_1", "past_2"]),
    ]
