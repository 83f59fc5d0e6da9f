"""The graph that TensorRT is given: whether its function bodies go, and what is left then."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import onnx
import pytest

from seqexport.plugins.errors import UserError
from seqexport.plugins.ops import OPS
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.trt.graph import drops_bodies, graph_bytes
from tests.conftest import Exported


@pytest.fixture
def bundle(exported: Exported) -> Bundle:
    return exported("llama", target="portable", logits="last")


@pytest.mark.parametrize(
    ("target", "plugins", "major", "expected"),
    [
        ("tensorrt", True, 8, False),
        ("tensorrt", True, 11, False),
        ("portable", True, 10, True),
        ("portable", False, 10, False),
        ("tensorrt", False, 10, "has no function bodies; export it with: seqexport onnx --model .* --target portable"),
        ("portable", False, 8, "TensorRT 8 misreads the opset and the functions of target portable.*--target tensorrt"),
        ("portable", True, 8, "TensorRT 8 misreads the opset"),
        ("ort", True, 10, "target ort is for ONNX Runtime alone.*--target tensorrt"),
    ],
)
def test_which_graph_is_built(target: Any, plugins: bool, major: int, expected: bool | str, bundle: Bundle) -> None:
    made_for = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, target=target))
    if isinstance(expected, bool):
        assert drops_bodies(made_for, plugins=plugins, major=major) is expected
        return
    with pytest.raises(UserError, match=expected):
        drops_bodies(made_for, plugins=plugins, major=major)


@pytest.mark.parametrize(
    ("source", "again"),
    [
        ("factory:my_models:make", "seqexport onnx --module my_models:make --target tensorrt"),
        ("memory:Reader", "export it with: `target='tensorrt'`"),
    ],
)
def test_how_any_module_is_exported_again(source: str, again: str, bundle: Bundle) -> None:
    manifest = bundle.manifest
    made = msgspec.structs.replace(
        manifest, target="ort", source=msgspec.structs.replace(manifest.source, model=source)
    )
    with pytest.raises(UserError, match=re.escape(again)):
        drops_bodies(Bundle(bundle.path, made), plugins=True, major=10)


def test_bfloat16_needs_tensorrt_10(bundle: Bundle) -> None:
    made = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, target="tensorrt", dtype="bfloat16"))
    assert not drops_bodies(made, plugins=True, major=10)
    with pytest.raises(UserError, match="bfloat16, which TensorRT 8 has not"):
        drops_bodies(made, plugins=True, major=8)


def test_experts_have_no_body_that_tensorrt_reads(bundle: Bundle) -> None:
    made = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, ops={"CausalAttention": 3, "Experts": 3}))
    assert drops_bodies(made, plugins=True, major=10)
    with pytest.raises(UserError, match=r"cannot read the function body of Experts; build it with the plugins instead"):
        drops_bodies(made, plugins=False, major=10)


@pytest.mark.parametrize("name", ["jamba", "gemma2"])
def test_dropped_functions_leave_what_the_target_tensorrt_has(name: str, exported: Exported) -> None:
    ours = onnx.load_model_from_string(graph_bytes(exported(name, target="portable", logits="last").model, drop=True))
    theirs = onnx.load_model_from_string(exported(name, target="tensorrt", logits="last").model.read_bytes())
    ops = set(exported(name, target="portable", logits="last").manifest.ops)
    assert not ours.functions
    assert _nodes(ours, ops) == _nodes(theirs, ops)
    assert {op for op, *_ in _nodes(ours, ops)} == ops


def _nodes(model: onnx.ModelProto, ops: set[str]) -> list[Any]:
    """Of these ops, without the type that TensorRT before 10 is told, which takes no portable graph, and without
    windows, which no function body can read."""
    return [
        (n.op_type, len(n.input), n.overload, {k: v for k, v in _attributes(n).items() if k not in _windows(n)} | T)
        for n in model.graph.node
        if n.domain == "seqexport" and n.op_type in ops
    ]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _windows(node: onnx.NodeProto) -> set[str]:
    windows = OPS[node.op_type].windows
    return {*(f"{name}_at" for name in windows), *(size for sizes in windows.values() for size in sizes)}


T = {"T": None}
