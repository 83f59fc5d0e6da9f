"""A manifest that says something else than its graph is found out, whatever it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from seqexport.runtimes.graph_interface import difference, interface
from seqexport.runtimes.manifest import Manifest, StateSpec
from tests.conftest import Exported
from tests.runtimes.graphs import save_graph
from tests.runtimes.test_bundle import CACHE, any_module, manifest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_graph(tmp_path / "model.onnx", manifest())
    return tmp_path / "model.onnx"


def replaced(made: Manifest, kind: str, **changes: Any) -> Manifest:
    """Of the last of its inputs or outputs."""
    *others, last = getattr(made, kind)
    return msgspec.structs.replace(made, **{kind: (*others, msgspec.structs.replace(last, **changes))})


@pytest.mark.parametrize("target", ["portable", "ort", "tensorrt"])
def test_exports_agree_with_their_manifests(exported: Exported, target: str) -> None:
    bundle = exported("preset:mamba", target=target)
    assert difference(bundle.model, bundle.manifest) is None


def test_what_agrees(model: Path) -> None:
    assert difference(model, manifest()) is None
    save_graph(model, any_module())
    assert difference(model, any_module()) is None


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (replaced(manifest(), "inputs", name="past"), r"its inputs are not those listed \(past"),
        (replaced(manifest(), "inputs", dtype="float32"), "past_key_values.3.key is float16, not float32"),
        (replaced(manifest(), "inputs", shape=CACHE[:3]), r"has the shape \[\?, 2, \?, 4\], not \[batch, 2, max_len\]"),
        (replaced(manifest(), "outputs", shape=(*CACHE[:3], 5)), r"present.3.key has the shape"),
        (manifest(states=(StateSpec(layer=3, kind="key", shape=CACHE, dtype="float32"),)), "and the state another"),
        (
            manifest(states=(StateSpec(layer=4, kind="key", shape=CACHE, dtype="float16"),)),
            "it has no past_key_values.4",
        ),
        (
            manifest(language_model=msgspec.structs.replace(manifest().text, vocab_size=2**30)),
            r"its logits are \[batch, 1, 9\], not of 1073741824 tokens",
        ),
    ],
)
def test_what_does_not(model: Path, other: Manifest, told: str) -> None:
    assert re.search(told, difference(model, other) or "nothing")


def test_a_dtype_that_the_weights_have_not(model: Path) -> None:
    """So the looser bound of a narrower dtype cannot be had by saying it."""
    save_graph(model, manifest(), numpy_helper.from_array(np.ones((2, 3), np.float32), "w"))
    assert difference(model, manifest()) == "most of its weights are float32, not float16"
    few = numpy_helper.from_array(np.ones(2, np.float32), "w"), numpy_helper.from_array(np.ones(3, np.float16), "v")
    save_graph(model, manifest(), *few)
    assert difference(model, manifest()) is None
    assert interface(model).weights == {"float32": 2, "float16": 3}


@pytest.mark.parametrize("content", [b"", b"no graph", b"\xff" * 40])
def test_what_is_no_graph(model: Path, content: bytes) -> None:
    model.write_bytes(content)
    assert difference(model, manifest())


def test_a_graph_that_is_cut_short(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-9])
    with pytest.raises(Exception, match=r"truncated|Error parsing"):
        onnx.load(model)
    assert difference(model, manifest()) == "it is no ONNX graph, or cut short"
