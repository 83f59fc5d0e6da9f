"""What the library answers to a wrong node: a status that names the op, the input, what was expected and what came."""

from __future__ import annotations

import re
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
    test_top_k_router,
)

ATTENTION, CONV, SCAN = OPS["CausalAttention"], OPS["CausalConv1d"], OPS["SelectiveScan"]
EMBEDDING, LAST, LINEAR = OPS["Embedding"], OPS["LastToken"], OPS["Linear"]
NORM, ROTARY, ROUTER = OPS["RmsNorm"], OPS["RotaryQueryKey"], OPS["TopKRouter"]
attention, conv, scan = test_causal_attention.make, test_causal_conv1d.make, test_selective_scan.make
embedding, last_token, linear = test_embedding.make, test_last_token.make, test_linear.make
norm, rotary, router = test_rms_norm.make, test_rotary_embedding.make, test_top_k_router.make


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("op", "values", "message"),
    [
        (CONV, conv() | {"past": torch.zeros(2, 6, 4)},
         r"'past' must be \[B=2, D=6, K-1=3\], got \[2, 6, 4\]; K is 4 by input 'weight'"),
        (CONV, conv() | {"weight": torch.zeros(5, 4)},
         r"'weight' must be \[D=6, K\], got \[5, 4\]; D is 6 by input 'x'"),
        (CONV, conv() | {"weight": torch.zeros(6, 65)},
         r"'weight' must be \[D=6, K\], got \[6, 65\]; K may be 1 to 64"),
        (CONV, conv() | {"bias": torch.zeros(6, 1)}, r"'bias' must be \[D=6\], got \[6, 1\]"),
        (CONV, conv() | {"bias": torch.zeros(6).half()}, "'bias' must be float32 as input 'x' is, got float16"),
        (CONV, conv() | {"past": None}, "'past' is missing; it is not optional"),
        (CONV, conv() | {"seq_lens": torch.ones(2).long()}, "'seq_lens' must be int32, got int64"),
        (CONV, {k: v.double() for k, v in conv(without=["seq_lens"]).items() if v is not None},
         "'x' must be float32, float16 or bfloat16, got float64"),
        (SCAN, scan() | {"A": torch.zeros(6, 4).half()}, "'A' must be float32, got float16"),
        (SCAN, scan() | {"z": torch.zeros(2, 4, 6)},
         r"'z' must be \[B=2, L=5, D=6\], got \[2, 4, 6\]; L is 5 by input 'x'"),
        (SCAN, scan(length=0), r"'x' must be \[B=2, L, D\], got \[2, 0, 6\]; L may be 1 to 1073741824"),
        (ATTENTION, attention(Dh=257),
         r"'query' must be \[B=2, L=5, Hq=4, Dh\], got \[2, 5, 4, 257\]; Dh may be 1 to 256"),
        (ATTENTION, attention(past_lens=[7, 8]), "'past_lens' must be 0 to S - seq_lens = 7, got 8 in row 1"),
        (ATTENTION, attention(past_lens=[-1, 0]), "'past_lens' must be 0 to S - seq_lens = 7, got -1 in row 0"),
        (ATTENTION, attention(seq_lens=[6, 0]), "'seq_lens' must be 0 to L = 5, got 6 in row 0"),
        (EMBEDDING, embedding() | {"ids": torch.zeros(2, 3).long()}, "'ids' must be int32, got int64"),
        (EMBEDDING, embedding(D=0), r"'weight' must be \[V=\d+, D\], got \[\d+, 0\]; D may be 1 to 1073741824"),
        (LAST, last_token() | {"seq_lens": int32(5, 5)}, r"'seq_lens' must be \[B=3\], got \[2\]; B is 3 by input 'x'"),
        (LINEAR, linear() | {"weight": torch.zeros(24, 15)},
         r"'weight' must be \[N=24, K=16\], got \[24, 15\]; K is 16 by input 'x'"),
        (LINEAR, linear() | {"weight2": torch.zeros(5, 16).half()},
         "'weight2' must be float32 as input 'x' is, got float16"),
        (LINEAR, linear() | {"bias2": torch.zeros(8)},
         r"'bias2' must be \[N2=5\], got \[8\]; N2 is 5 by input 'weight2'"),
        (LINEAR, linear() | {"weight1": None}, "'weight2' must come with input 'weight1', got it without"),
        (LINEAR, linear(features=(24,)) | {"bias1": torch.zeros(8)},
         "'bias1' must come with input 'weight1', got it without"),
        (NORM, norm() | {"weight": torch.zeros(23)}, r"'weight' must be \[D=24\], got \[23\]; D is 24 by input 'x'"),
        (NORM, norm(dtype=torch.float16, wide=1),
         "'residual' must be float16 as input 'x' is, got float32"),
        (ROTARY, rotary() | {"sin": torch.zeros(2, 3, 8)},
         r"'sin' must be \[B=2, L=3, R=16\], got \[2, 3, 8\]; R is 16 by input 'cos'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_inputs(library: Path, op: Any, values: Any, message: str) -> None:
    with pytest.raises(Exception, match=f"{op.name}: input {message}"):
        LibraryOps(library).run(op, values)


@pytest.mark.parametrize(
    ("op", "values", "message"),
    [
        (SCAN, scan() | {name: torch.zeros(2, 5, 7, 4) for name in "BC"},
         "G (groups) must be at most D (channels) = 6, got 7"),
        (ATTENTION, attention(Hq=3), "Hq (query heads) must be a multiple of Hkv (key heads) = 2, got 3"),
        (ROTARY, rotary(R=14) | {name: torch.zeros(2, 3, 15) for name in ("cos", "sin")},
         "R (rotated features) must be even and at most Dh = 16, got 15"),
        (ROTARY, rotary(R=18), "R (rotated features) must be even and at most Dh = 16, got 18"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_go_together(library: Path, op: Any, values: Any, message: str) -> None:
    with pytest.raises(Exception, match=re.escape(f"{op.name}: {message}")):
        LibraryOps(library).run(op, values)


@pytest.mark.parametrize(
    ("op", "values", "attributes", "message"),
    [
        (CONV, conv(), {"activation": "gelu"}, "'activation' must be none or silu, got 'gelu'"),
        (CONV, conv(), {"activation": 1}, "'activation' must be none or silu, got another type"),
        (SCAN, scan(), {"dt_softplus": 2}, "'dt_softplus' must be an integer of at least 0 and at most 1, got 2"),
        (
            SCAN,
            scan(),
            {"dt_softplus": 1.5},
            "'dt_softplus' must be an integer of at least 0 and at most 1, got another type",
        ),
        (NORM, norm(), {"epsilon": -1.0}, "'epsilon' must be a finite number of at least 0, got -1"),
        (NORM, norm(), {"groups": 0}, "'groups' must be an integer of at least 1 and at most 1073741824, got 0"),
        (NORM, norm(), {"wide": 2}, "'wide' must be an integer of at least 0 and at most 1, got 2"),
        (
            ATTENTION,
            attention(),
            {"window": -1},
            "'window' must be an integer of at least 0 and at most 1073741824, got -1",
        ),
        (
            ATTENTION,
            attention(),
            {"window": (1 << 30) + 1},
            "'window' must be an integer of at least 0 and at most 1073741824, got 1073741825",
        ),
        (NORM, norm(), {"epsilon": float("inf")}, "'epsilon' must be a finite number of at least 0, got inf"),
        (ATTENTION, attention(), {"softcap": float("nan")}, "'softcap' must be a finite number of at least 0, got nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_attributes(library: Path, op: Any, values: Any, attributes: Any, message: str) -> None:
    with pytest.raises(Exception, match=f"{op.name}: attribute {message}"):
        LibraryOps(library).run(op, values, attributes)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"k": 7}, "k must be at most the 6 experts that a token may choose from, got 7"),
        ({"groups": 4}, "groups must divide E (experts) = 6, got 4"),
        ({"groups": 2, "kept_groups": 3}, "kept_groups must be at most groups = 2, got 3"),
        ({"groups": 3, "k": 3}, "k must be at most the 2 experts that a token may choose from, got 3"),
        ({"k": 0}, "attribute 'k' must be an integer of at least 1 and at most 256, got 0"),
        ({"score": "tanh"}, "attribute 'score' must be softmax or sigmoid, got 'tanh'"),
    ],
)
def test_routers_that_do_not_go_together(library: Path, attributes: Any, message: str) -> None:
    with pytest.raises(Exception, match=re.escape(f"TopKRouter: {message}")):
        LibraryOps(library).run(ROUTER, router(), attributes)


def test_groups_that_do_not_divide_the_channels(library: Path) -> None:
    with pytest.raises(Exception, match=re.escape("RmsNorm: groups must divide D (channels) = 24, got 5")):
        LibraryOps(library).run(NORM, norm(), {"groups": 5})


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
    ("x,weight,past,x", "attribute 'inputs' names 'x' twice, which is no input or out of order, in 'x,weight,past,x'"),
    ("x,,weight,past", "attribute 'inputs' must name input 'weight' in its place, got 'x,,weight,past'"),
    ("x,weight,passed", "attribute 'inputs' must name input 'past' in its place, got 'x,weight,passed'"),
    ("bias,seq_lens,weight,past,x",
     "attribute 'inputs' must name input 'x' in its place, got 'bias,seq_lens,weight,past,x'"),
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

    with pytest.raises(Exception, match=f"CausalConv1d: {message}"):
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
    message = f"Linear: expected {len(features)} outputs, got {len(outputs)}"
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
