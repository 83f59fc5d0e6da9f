"""Products with weights of target ``tensorrt``: those that Linear takes over, and those that stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from seqexport.exporter.passes.fold_parameters import fold_parameters
from seqexport.exporter.passes.fuse_linear import fuse_linear
from seqexport.exporter.passes.unflatten_products import unflatten_products
from seqexport.exporter.targets import FUSIONS
from tests.exporter.handmade import Array, X, Y, fused, model, names, node_of, values


def test_a_projection_and_its_bias_are_one_node_over_the_parameter_itself() -> None:
    body = "columns = Transpose <perm = [1, 0]> (weight) xw = MatMul (x, columns) y = Add (bias, xw)"
    graph = model(X, "float[batch, seq, 4] y", body, weight=values(4, 6), bias=values(4))
    assert fused(graph, fold_parameters, fuse_linear) == {"Linear": 1}
    assert names(node_of(graph, "Linear")) == ["x", "weight", "bias"]
    assert set(graph.graph.initializers) == {"weight", "bias"}


def test_copies_of_a_graph_share_the_tensors_of_their_weights() -> None:
    body = "columns = Transpose <perm = [1, 0]> (weight) y = MatMul (x, columns)"
    graph = model(X, "float[batch, seq, 4] y", body, weight=values(4, 6))
    fold_parameters(graph)
    for copy in (graph.clone(), graph.clone()):
        assert fused(copy, fuse_linear) == {"Linear": 1}


def test_a_tied_table_is_stored_once() -> None:
    body = "rows = Gather (table, ids) columns = Transpose <perm = [1, 0]> (table) y = MatMul (rows, columns)"
    graph = model("int64[batch, seq] ids", "float[batch, seq, 7] y", body, table=values(7, 6))
    assert fused(graph, fold_parameters, *FUSIONS) == {"Cast": 1, "Embedding": 1, "Linear": 1}
    assert set(graph.graph.initializers) == {"table"}


def test_a_split_projection_takes_rows_of_its_weight_when_it_is_written() -> None:
    body = "xw = MatMul (x, columns) biased = Add (xw, bias) y, z, w = Split <axis = -1> (biased, sizes)"
    outputs = "float[batch, seq, 3] y, float[batch, seq, 1] z, float[batch, seq, 2] w"
    weights = {"columns": values(6, 6), "bias": values(6), "sizes": np.array([3, 1, 2])}
    graph = model(X, outputs, body, **weights)
    touched: list[str] = []

    class Watched(ir.Tensor):
        def numpy(self) -> Array:
            touched.append("numpy")
            return super().numpy()  # type: ignore[no-any-return]

    watched = model(X, outputs, body, **weights)
    watched.graph.initializers["columns"].const_value = Watched(weights["columns"], name="columns")
    fuse_linear(watched)
    assert touched == []
    assert fused(graph, fuse_linear) == {"Linear": 1}
    rows = [value.const_value for value in node_of(graph, "Linear").inputs[1::2] if value is not None]
    assert [tuple(weight.shape.numpy()) for weight in rows if weight is not None] == [(3, 6), (1, 6), (2, 6)]
    assert {name.split(".")[0] for name in graph.graph.initializers} == {"columns", "bias"}


def test_projections_of_one_input_share_nodes_of_three() -> None:
    products = " ".join(f"y{i} = MatMul ({x}, w{i})" for i, x in enumerate(["x", "x", "z", "x", "x"]))
    outputs = ", ".join(f"float[batch, seq, {i + 1}] y{i}" for i in range(5))
    graph = model(X, outputs, f"z = Neg (x) {products}", **{f"w{i}": values(6, i + 1) for i in range(5)})
    assert fused(graph, fuse_linear) == {"Neg": 1, "Linear": 3}
    assert sorted(len(node.outputs) for node in graph.graph if node.op_type == "Linear") == [1, 1, 3]


MAPS = {
    "of a fixed size": ("batch, 3, 2, 6", "batch, 3, 2", {"Reshape": 2, "Linear": 1}),
    "of any size": ("batch, room, seq, 6", "batch, room, seq", {"Reshape": 2, "Shape": 1, "Concat": 1, "Linear": 1}),
}


@pytest.mark.parametrize("case", MAPS)
def test_a_map_is_projected_as_tokens(case: str) -> None:
    x, places, kinds = MAPS[case]
    body = "columns = Transpose <perm = [1, 0]> (weight) xw = MatMul (x, columns) y = Add (bias, xw)"
    graph = model(f"float[{x}] x", f"float[{places}, 4] y", body, weight=values(4, 6), bias=values(4))
    assert fused(graph, fold_parameters, fuse_linear) == kinds
    assert names(node_of(graph, "Linear"))[1:] == ["weight", "bias"]


def test_parts_of_a_projected_map_are_maps() -> None:
    body = "p = MatMul (x, w) y, z = Split <axis = 3> (p, sizes)"
    outputs = "float[batch, 3, 2, 4] y, float[batch, 3, 2, 2] z"
    graph = model("float[batch, 3, 2, 6] x", outputs, body, w=values(6, 6), sizes=np.array([4, 2]))
    assert fused(graph, fuse_linear) == {"Reshape": 3, "Linear": 1}


PLAIN = "y = MatMul (x, w)"
LEFT = {
    "of a matrix": ("float[seq, 6] x", "float[seq, 6] y", PLAIN, {"MatMul"}),
    "with a computed weight": (X, Y, "v = Add (w, w) y = MatMul (x, v)", {"MatMul", "Add"}),
    "whose product others read": (X, f"{Y}, float[batch, seq, 6] p", "p = MatMul (x, w) y = Add (p, b)", {"Add"}),
    "into four": (X, Y, 
                  "p = MatMul (x, w) a, b_, c, d = Split <axis = 2> (p, four) y = Concat <axis = 2> (d, a, b_, c)",
                  {"Split", "Concat"}),
    "along tokens": ("float[batch, 4, 6] x", "float[batch, 2, 6] y",
                     "p = MatMul (x, w) a, c = Split <axis = 1, num_outputs = 2> (p) y = Add (a, c)", {"Split", "Add"}),
    "that others read whole": (X, f"{Y}, float[batch, seq, 3] c",
                               "y = MatMul (x, w) a, c = Split <axis = 2, num_outputs = 2> (y)", {"Split"}),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT)
def test_what_is_no_plain_projection_stays(case: str) -> None:
    inputs, outputs, body, left = LEFT[case]
    constants = {"w": values(6, 6), "b": values(6), "four": np.array([1, 1, 2, 2])}
    kinds = fused(model(inputs, outputs, body, **constants), fuse_linear)
    assert set(kinds) - {"Linear"} == left


@pytest.mark.parametrize("heads", [False, True])
def test_a_product_of_flattened_tokens_is_one_of_tokens(heads: bool) -> None:
    inputs = "float[batch, seq, 2, 3] x" if heads else X
    kinds = fused(flattened(inputs), unflatten_products, fuse_linear)
    assert kinds == ({"Reshape": 1, "Linear": 1} if heads else {"Linear": 1})


def test_a_product_with_more_to_it_stays() -> None:
    assert fused(flattened(X, "Gemm <alpha = 2.0>"), unflatten_products)["Gemm"] == 1


def test_a_weight_as_pytorch_stores_it_is_taken_as_it_is() -> None:
    graph = flattened(X, "Gemm <transB = 1>")
    assert fused(graph, unflatten_products, fuse_linear) == {"Linear": 1}
    assert names(node_of(graph, "Linear"))[1:] == ["w", "b"]


def test_a_router_shares_a_node_with_others_that_read_its_tokens() -> None:
    body = "flat = Reshape (x, rows) chosen = Gemm <transB = 1> (flat, router) y = MatMul (x, w)"
    outputs = f"{Y}, float[seq, 3] chosen"
    constants = {"w": values(6, 6), "router": values(3, 6), "rows": np.array([-1, 6])}
    graph = model(X, outputs, body, **constants)
    assert fused(graph, unflatten_products, fuse_linear) == {"Linear": 1, "Reshape": 1}
    assert len(node_of(graph, "Linear").outputs) == 2


def test_flat_tokens_without_other_axes_get_one_in_front() -> None:
    body = "y = Gemm <transB = 1> (x, w, b)"
    constants = {"w": values(4, 6), "b": values(4)}
    graph = model("float[seq, 6] x", "float[seq, 4] y", body, **constants)
    assert fused(graph, unflatten_products, fuse_linear) == {"Unsqueeze": 1, "Linear": 1, "Squeeze": 1}


def flattened(inputs: str, gemm: str = "Gemm") -> ir.Model:
    body = f"flat = Reshape (x, rows) p = {gemm} (flat, w, b) sizes = Shape (z) y = Reshape (p, sizes)"
    constants = {"w": values(6, 6), "b": values(6), "rows": np.array([-1, 6])}
    return model(f"{inputs}, float[batch, seq, 6] z", Y, body, **constants)
