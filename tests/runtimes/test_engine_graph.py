"""The graph that TensorRT is given: which change it needs, and that a change keeps what it computes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import MODEL, Bundle
from seqexport.runtimes.engine_graph import change_needed, graph_bytes
from tests.conftest import Exported


@pytest.fixture
def bundle(exported: Exported) -> Bundle:
    return exported("llama", target="portable", logits="last")


@pytest.mark.parametrize(
    ("target", "plugins", "major", "expected"),
    [
        ("tensorrt", True, 8, "none"),
        ("tensorrt", True, 11, "none"),
        ("portable", True, 10, "drop"),
        ("portable", False, 10, "none"),
        ("portable", False, 8, "inline"),
        ("tensorrt", False, 10, "has no function bodies; export it with: seqexport onnx --model .* --target portable"),
        ("portable", True, 8, "TensorRT 8 reads target portable only with --no-plugins.*--target tensorrt"),
        ("ort", True, 10, "target ort is for ONNX Runtime alone.*--target tensorrt"),
    ],
)
def test_which_graph_is_built(target: Any, plugins: bool, major: int, expected: str, bundle: Bundle) -> None:
    made_for = Bundle(bundle.path, msgspec.structs.replace(bundle.contract, target=target))
    if expected in ("none", "drop", "inline"):
        assert change_needed(made_for, plugins=plugins, major=major) == expected
        return
    with pytest.raises(UserError, match=expected):
        change_needed(made_for, plugins=plugins, major=major)


def test_bfloat16_needs_tensorrt_10(bundle: Bundle) -> None:
    made = Bundle(bundle.path, msgspec.structs.replace(bundle.contract, target="tensorrt", dtype="bfloat16"))
    assert change_needed(made, plugins=True, major=10) == "none"
    with pytest.raises(UserError, match="bfloat16, which TensorRT 8 has not"):
        change_needed(made, plugins=True, major=8)


@pytest.mark.parametrize("name", ["jamba", "gemma2"])
def test_dropped_functions_leave_what_the_target_tensorrt_has(name: str, exported: Exported) -> None:
    ours = onnx.load_model_from_string(graph_bytes(exported(name, target="portable", logits="last").model, "drop"))
    theirs = onnx.load_model_from_string(exported(name, target="tensorrt", logits="last").model.read_bytes())
    assert not ours.functions
    assert _our_nodes(ours) == _our_nodes(theirs)
    assert {op for op, *_ in _our_nodes(ours)} == set(exported(name, target="portable", logits="last").contract.ops)


def _our_nodes(model: onnx.ModelProto) -> list[Any]:
    return [
        (n.op_type, len(n.input), n.overload, {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute})
        for n in model.graph.node
        if n.domain == "seqexport"
    ]


@pytest.mark.parametrize("name", ["jamba", "gemma2"])
def test_inlined_functions_compute_the_same(name: str, exported: Exported, tmp_path: Path) -> None:
    bundle = exported(name, target="portable", logits="last")
    (tmp_path / MODEL).write_bytes(graph_bytes(bundle.model, "inline"))
    shutil.copyfile(f"{bundle.model}.data", tmp_path / f"{MODEL}.data")
    flat = onnx.load(tmp_path / MODEL, load_external_data=False)
    assert not flat.functions
    assert {node.domain for node in flat.graph.node} == {""}
    assert not [node for node in flat.graph.node if node.op_type == "Shape" and node.attribute]
    sizes, rng = {"batch": 2, "seq": 5, "max_len": 12}, np.random.default_rng(0)
    feeds = {
        spec.name: rng.integers(0, 9, [sizes.get(a, a) for a in spec.shape]).astype(spec.dtype)  # type: ignore[arg-type]
        for spec in bundle.contract.inputs
    }
    feeds["seq_lens"] = np.array([5, 3], np.int32)
    feeds["past_lens"] = np.array([4, 7], np.int32)
    ours, theirs = (
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)
        for path in (tmp_path / MODEL, bundle.model)
    )
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
