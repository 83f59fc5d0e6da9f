"""The files that a graph's tensors lie in are all found, wherever a tensor can stand, and none of any other place."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from seqexport.plugins.errors import UserError
from seqexport.runtimes.external_data import check_inside, locations
from tests.conftest import Exported
from tests.runtimes.graphs import lying_in


def graph_of(*nodes: onnx.NodeProto, tensors: tuple[TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(tensors))


def save_weights_in(model: Path, name: str) -> None:
    onnx.save(helper.make_model(graph_of(tensors=(lying_in(name),))), model)


def everywhere() -> onnx.ModelProto:
    """A model with a tensor in another file at each place where the format has tensors."""
    sparse = onnx.SparseTensorProto(values=lying_in("sparse values"), indices=lying_in("sparse indices"))
    inner = helper.make_node("If", [], [], then_branch=graph_of(tensors=(lying_in("branch"),)))
    nodes = [
        helper.make_node("Constant", [], ["a"], value=lying_in("attribute")),
        helper.make_node("X", [], ["b"], values=[lying_in("attributes 0"), lying_in("attributes 1")]),
        helper.make_node("X", [], ["c"], graphs=[graph_of(inner, tensors=(lying_in("graphs"),))]),
        helper.make_node("X", [], ["d"], value=sparse),
        helper.make_node("X", [], ["e"], values=[sparse]),
    ]
    model = helper.make_model(graph_of(*nodes, tensors=(lying_in("initializer"),)))
    kept = model.graph.sparse_initializer.add()
    kept.values.CopyFrom(lying_in("kept values"))
    function = model.functions.add(name="f")
    function.node.add(op_type="Constant").attribute.append(helper.make_attribute("value", lying_in("function")))
    function.attribute_proto.append(helper.make_attribute("value", lying_in("default")))
    model.training_info.add().initialization.CopyFrom(graph_of(tensors=(lying_in("initialization"),)))
    model.training_info.add().algorithm.CopyFrom(graph_of(tensors=(lying_in("algorithm"),)))
    return model


NAMES = {
    "attribute", "attributes 0", "attributes 1", "graphs", "branch", "sparse values", "sparse indices", "initializer",
    "kept values", "function", "default", "initialization", "algorithm",
}  # fmt: skip


def test_every_place(tmp_path: Path) -> None:
    model = tmp_path / "x.onnx"
    model.write_bytes(everywhere().SerializeToString())
    assert locations(model) == NAMES


def test_an_exported_graph(exported: Exported) -> None:
    assert locations(exported("preset:mamba", target="portable").model) == {"model.onnx.data"}


@pytest.mark.parametrize("content", [b"", b"no graph", b"\xff" * 40, b"\x3a\x7f"])
def test_what_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    assert locations(tmp_path / "x.onnx") == set()


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 900), flips=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), max_size=4))
def test_what_protobuf_still_reads_is_found(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(everywhere().SerializeToString())
    del data[len(data) - cut :]
    for place, byte in flips:
        if place < len(data):
            data[place] = byte
    model = tmp_path_factory.mktemp("fuzz") / "x.onnx"
    model.write_bytes(data)
    found = locations(model)
    try:
        read = onnx.ModelProto.FromString(bytes(data))
    except Exception:
        return
    initializers = [tensor.external_data for tensor in read.graph.initializer]
    assert {e.value for entries in initializers for e in entries if e.key == "location"} <= found


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "C:\\x", "\\\\host\\x", "link"])
def test_outside_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "in" / "link").symlink_to("../x")
    save_weights_in(tmp_path / "in" / "x.onnx", name)
    with pytest.raises(UserError, match=r"x\.onnx: has weights in '.*', outside its folder; put the file itself"):
        check_inside(tmp_path / "in" / "x.onnx")
    save_weights_in(tmp_path / "in" / "x.onnx", "beside.data")
    check_inside(tmp_path / "in" / "x.onnx")
