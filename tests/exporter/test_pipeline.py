"""What an export writes: the graph's manifest, for every target."""

from __future__ import annotations

import json
import shutil
import stat
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from safetensors.torch import load_file, save_file

from seqexport.exporter import targets
from seqexport.exporter.pipeline import ExportOptions, export
from seqexport.exporter.presets import PRESETS
from seqexport.plugins.errors import UserError
from seqexport.plugins.ops import DOMAIN
from seqexport.runtimes.backends import open_runner
from seqexport.runtimes.bundle import MODEL, Bundle
from seqexport.runtimes.generate import generate
from seqexport.runtimes.manifest import Target
from tests.conftest import Exported, Saved

TARGETS = ["portable", "ort", "tensorrt"]
NAMES = ["mamba", "llama", "jamba", "irregular"]
OPS = {
    "mamba": {"CausalConv1d": 2, "SelectiveScan": 2},
    "llama": {"CausalAttention": 3},
    "jamba": {"CausalConv1d": 2, "SelectiveScan": 2, "CausalAttention": 2},
    "irregular": {"CausalConv1d": 2, "CausalAttention": 2},
}
FUSED = {
    "mamba": {"Linear": 9, "RmsNorm": 3},
    "llama": {"Linear": 13, "RmsNorm": 7, "RotaryQueryKey": 3},
    "jamba": {"Linear": 21, "RmsNorm": 15},
    "irregular": {"Linear": 17, "RmsNorm": 9, "RotaryQueryKey": 2},
}
"""What target ``tensorrt`` has besides, and a table and a last token each."""


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=NAMES)
def bundle(request: pytest.FixtureRequest, exported: Exported, target: str) -> Bundle:
    return exported(request.param, target=target, logits="last")


def interface(values: Any) -> list[tuple[str, str, list[Any]]]:
    return [
        (
            v.name,
            TensorProto.DataType.Name(v.type.tensor_type.elem_type),
            [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
        )
        for v in values
    ]


def in_manifest(specs: Any) -> list[tuple[str, str, list[Any]]]:
    kinds = {"float32": "FLOAT", "float16": "FLOAT16", "int64": "INT64", "int32": "INT32"}
    return [(spec.name, kinds[spec.dtype], list(spec.shape)) for spec in specs]


def test_the_written_file_is_valid(bundle: Bundle) -> None:
    onnx.checker.check_model(str(bundle.model))


def test_the_graph_is_what_the_manifest_says(bundle: Bundle) -> None:
    graph, manifest = onnx.load(bundle.model, load_external_data=False).graph, bundle.manifest
    assert interface(graph.input) == in_manifest(manifest.inputs)
    assert interface(graph.output) == in_manifest(manifest.outputs)
    name = bundle.name.split("-")[0]
    fused = {**FUSED[name], "Embedding": 1, "LastToken": 1} if manifest.target == "tensorrt" else {}
    assert manifest.ops == OPS[name] | fused


def test_inputs_and_outputs_stand_in_order(bundle: Bundle) -> None:
    manifest = bundle.manifest
    attends = "CausalAttention" in manifest.ops
    pasts, presents = [s.past_name for s in manifest.states], [s.present_name for s in manifest.states]
    lengths = ["seq_lens", "past_lens"] if attends else ["seq_lens"]
    assert [spec.name for spec in manifest.inputs] == ["input_ids", *lengths, *pasts]
    assert [spec.name for spec in manifest.outputs] == ["logits", *presents]
    assert [s.layer for s in manifest.states] == sorted(s.layer for s in manifest.states)
    assert manifest.inputs[0].shape == ("batch", "seq")
    assert manifest.outputs[0].shape == ("batch", 1, manifest.vocab_size)


def test_a_state_goes_out_as_it_came_in(bundle: Bundle) -> None:
    manifest = bundle.manifest
    outputs = {spec.name: spec for spec in manifest.outputs}
    for state in manifest.states:
        past, present = manifest.input_named(state.past_name), outputs[state.present_name]
        assert past is not None
        assert past.shape == present.shape == state.shape
        assert past.dtype == present.dtype == state.dtype
        assert state.grows == (state.kind in ("key", "value")) == ("max_len" in state.shape)


def test_weights_are_stored_once(bundle: Bundle) -> None:
    size = (bundle.path / f"{MODEL}.data").stat().st_size
    parameters = 4 * bundle.manifest.source.parameters
    assert 0.7 * parameters < size < 1.02 * parameters + 8192


@pytest.mark.parametrize("name", PRESETS)
def test_shipped_models_take_the_size_of_their_parameters(exported: Exported, target: str, name: str) -> None:
    bundle = exported(f"preset:{name}", target=target, dtype="float32", logits="all")
    size = (bundle.path / f"{MODEL}.data").stat().st_size
    assert size < 1.02 * 4 * bundle.manifest.source.parameters
    assert bundle.manifest.source.model == f"preset:{name}"
    assert bundle.manifest.outputs[0].shape == ("batch", "seq", 256)


@pytest.mark.parametrize("name", [*NAMES, "gemma2"])
def test_only_tensorrt_has_nodes_of_our_ops_without_a_body(exported: Exported, target: str, name: str) -> None:
    model = onnx.load(exported(name, target=target, logits="last").model, load_external_data=False)
    bodies = {(f.domain, f.name) for f in model.functions}
    ours = {(n.domain, n.op_type) for n in model.graph.node if n.domain.startswith(DOMAIN)}
    assert ours
    assert (ours & bodies) == (set() if target == "tensorrt" else ours)
    assert all(f.domain.startswith(DOMAIN) for f in model.functions)
    assert not any(each.overload for each in (*model.functions, *model.graph.node))  # older runtimes take one for all


def test_no_path_of_this_machine_is_in_the_graph(bundle: Bundle) -> None:
    graph = bundle.model.read_bytes()
    assert b".py" not in graph
    assert str(Path.cwd()).encode() not in graph


def test_every_file_can_be_read_by_all_who_may_enter(bundle: Bundle) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in bundle.path.iterdir()}
    assert len(set(modes.values())) == 1, modes


@pytest.mark.parametrize(
    ("opset", "target", "expected"),
    [
        *[(n, "portable", f"`opset` {n}: expected 18 to 23, or 27 with `target='portable'`") for n in (5, 17, 24, 28)],
        (27, "ort", "`opset` 27 is for `target='portable'`; for ort expected 18 to 23"),
        (27, "tensorrt", "`opset` 27 is for `target='portable'`; for tensorrt expected 18 to 23"),
    ],
)
def test_an_opset_that_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, opset: int, target: Target, expected: str
) -> None:
    options = ExportOptions(model="no such folder", opset=opset, target=target)
    with pytest.raises(UserError) as refused:
        export(options, tmp_path / "out", lambda _: nullcontext())
    assert str(refused.value) == expected
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [18, 23])
def test_the_oldest_and_the_newest_opset_are_what_is_written(exported: Exported, opset: int) -> None:
    bundle = exported("mamba", opset=opset, logits="last")
    model = onnx.load(bundle.model, load_external_data=False)
    assert {i.domain: i.version for i in model.opset_import}[""] == opset == bundle.manifest.opset
    onnx.checker.check_model(str(bundle.model))


def test_the_stages_are_told_in_order(checkpoint: Saved, tmp_path: Path, traced_once: None) -> None:
    told: list[str] = []

    def stage(name: str) -> nullcontext[None]:
        told.append(name.split()[0])
        return nullcontext()

    export(ExportOptions(model=str(checkpoint("mamba"))), tmp_path / "out", stage)
    assert told == ["load", "trace", "finish", "write", "record", "seal"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_a_head_of_its_own_counts_though_the_config_ties_it(checkpoint: Saved, tmp_path: Path, name: str) -> None:
    """Held against the file: the head in the graph is the file's, and the table another."""
    folder = shutil.copytree(checkpoint(name), tmp_path / name)
    weights = load_file(folder / "model.safetensors")
    table = weights["backbone.embeddings.weight" if name == "mamba" else "model.embed_tokens.weight"]
    weights["lm_head.weight"] = table.flip(0) * 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    bundle = export(ExportOptions(model=str(folder)), tmp_path / "out", lambda _: nullcontext())
    values = [numpy_helper.to_array(t, base_dir=str(bundle.path)) for t in onnx.load(bundle.model).graph.initializer]
    for tensor in (table.numpy(), weights["lm_head.weight"].numpy()):
        assert any(np.array_equal(tensor, x) or np.array_equal(tensor.T, x) for x in values)


@pytest.mark.parametrize(
    ("name", "max_len", "limit", "advice"),
    [
        ("llama", None, None, "shorten the prompt, or export with a larger `max_len`"),
        ("phi3_longrope", None, 48, "shorten the prompt: the model itself goes no further"),
        ("phi3_longrope", 40, 48, "shorten the prompt, or export with a larger `max_len` (48 at most)"),
        ("gpt2", None, 64, "shorten the prompt: the model itself goes no further"),
    ],
)
def test_a_row_too_long_is_told_what_works(
    exported: Exported, name: str, max_len: int | None, limit: int | None, advice: str
) -> None:
    bundle = exported(name, logits="last", max_len=max_len)
    capacity = bundle.manifest.capacity
    assert bundle.manifest.capacity_limit == limit
    assert capacity is not None
    with open_runner("ort", bundle) as runner:
        with pytest.raises(UserError) as error:
            generate(runner, [[1] * (capacity + 1)])
        assert str(error.value).endswith(f"at most {capacity}; {advice}")
        with runner.session() as session, pytest.raises(UserError) as error:
            session.prefill(np.ones((1, capacity + 1), np.int64))
        assert str(error.value).endswith(f"this session's capacity is {capacity}; {advice}")
        with runner.session(capacity=5) as session, pytest.raises(UserError) as error:
            session.prefill(np.ones((1, 6), np.int64))
        assert str(error.value).endswith("shorten the prompt, or give the session a larger capacity")


def test_a_larger_max_len_is_what_was_advised(exported: Exported) -> None:
    bundle = exported("llama", logits="last", max_len=100)
    with open_runner("ort", bundle) as runner, runner.session() as session:
        assert np.isfinite(session.prefill(np.ones((1, 65), np.int64))).all()


def test_every_target_has_its_passes() -> None:
    assert set(targets.PASSES) == set(TARGETS)
