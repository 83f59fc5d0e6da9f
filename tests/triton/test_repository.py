"""Repositories: configurations as Triton's protobuf reads them, and what is refused, with nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from seqexport.exporter.cli import cli
from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.triton.package import package
from seqexport.runtimes.trt.record import write_engine
from tests.conftest import Exported
from tests.runtimes.test_engine_record import PLAN, record
from tests.triton.configs import configs


@pytest.fixture
def bundle(exported: Exported) -> Bundle:
    return exported("preset:hybrid", target="portable", dtype="float32", logits="last")


@pytest.fixture
def built(bundle: Bundle, tmp_path: Path) -> Bundle:
    """With an engine that needs no plugins."""
    copy = open_bundle(shutil.copytree(bundle.path, tmp_path / "built"))
    write_engine(copy.path / "engines", memoryview(PLAN), record(copy, plugins=None))
    return copy


def test_the_engines_configuration_has_every_tensor_and_state(bundle: Bundle, tmp_path: Path) -> None:
    written = package(bundle, tmp_path / "r", name="m", max_batch=3, max_tokens=77)
    config = configs(tmp_path / "r")["m-engine"]
    assert (config["backend"], config["max_batch_size"]) == ("onnxruntime", 3)
    assert [(each["name"], each["data_type"], each["dims"]) for each in config["input"]] == [
        ("input_ids", "TYPE_INT64", ["-1"]), ("seq_lens", "TYPE_INT32", ["1"]), ("past_lens", "TYPE_INT32", ["1"]),
    ]  # fmt: skip
    assert [each.get("reshape") for each in config["input"]] == [None, {}, {}]
    assert [(each["name"], each["dims"]) for each in config["output"]] == [("logits", ["1", "256"])]
    states = {each["input_name"]: each for each in config["sequence_batching"]["state"]}
    for spec in bundle.manifest.states:
        state = states.pop(spec.past_name)
        assert state["output_name"] == spec.present_name
        assert [int(size) for size in state["dims"]] == list(spec.sizes(1, 77)[1:])
        assert state["initial_state"][0]["zero_data"] and state["initial_state"][0]["dims"] == state["dims"]
    assert states == {} and config["sequence_batching"]["oldest"] == {"max_candidate_sequences": 3}
    assert "model_operations" not in config and (written.path / "m-engine/1/model.onnx").is_file()


def test_the_front_is_decoupled_and_has_no_weights(bundle: Bundle, tmp_path: Path) -> None:
    package(bundle, tmp_path / "r", name="m")
    config = configs(tmp_path / "r")["m"]
    assert config["model_transaction_policy"] == {"decoupled": True} and config["backend"] == "python"
    assert config["parameters"]["engine"] == {"string_value": "m-engine"}
    assert all(each["optional"] for each in config["input"])
    names = {file.name for file in (tmp_path / "r/m/1").iterdir()}
    assert {"model.py", "seqexport.json", "tokenizer.json"} <= names and "model.onnx" not in names


def test_a_library_of_ops_goes_along(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqexport.plugins import library

    file = tmp_path / "libours-123.so"
    file.write_bytes(b"ours")
    found = library.Built("onnxruntime", file, "", "", {})
    monkeypatch.setattr(library, "find", lambda name: found)
    package(bundle, tmp_path / "r", name="m", mounted_at="/elsewhere")
    config = configs(tmp_path / "r")["m-engine"]
    assert config["model_operations"] == {"op_library_filename": ["/elsewhere/m-engine/1/libseqexport_ort.so"]}
    assert (tmp_path / "r/m-engine/1/libseqexport_ort.so").read_bytes() == b"ours"
    package(bundle, tmp_path / "r", name="m", device="cuda", force=True)
    config = configs(tmp_path / "r")["m-engine"]
    assert "model_operations" not in config and config["instance_group"][0]["kind"] == "KIND_GPU"


def test_an_engine_of_tensorrt_and_its_plugins(built: Bundle, tmp_path: Path) -> None:
    written = package(built, tmp_path / "r", name="m", backend="trt")
    config = configs(tmp_path / "r")["m-engine"]
    assert (config["backend"], config["default_model_filename"]) == ("tensorrt", "model.plan")
    assert config["max_batch_size"] == 4 and config["instance_group"][0]["profile"] == ["0", "1"]
    assert (tmp_path / "r/m-engine/1/model.plan").read_bytes() == PLAN
    assert "--gpus all" in written.command and "LD_PRELOAD" not in written.command


def test_the_command_prints_the_line_that_serves_it(bundle: Bundle, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "a folder"
    cli(["package", str(bundle.path), "--format", "triton", "-o", str(folder), "--name", "m"], standalone_mode=False)
    line = capsys.readouterr().out.splitlines()[-1].removeprefix("next ")
    assert line.startswith("docker run --rm --shm-size 1g -p 8000:8000 ")
    assert f"-v '{folder}:/models:ro' nvcr.io/nvidia/tritonserver:" in line
    assert "pip install seqexport==" in line and line.endswith("exec tritonserver --model-repository=/models'")


@pytest.mark.parametrize(("options", "why"), [
    ({"name": "a/b"}, "`name` 'a/b': expected letters"),
    ({"mounted_at": "models"}, "`mounted_at` 'models'"),
    ({"max_tokens": 1 << 30}, "`max_tokens` 1073741824: the bundle's capacity is"),
    ({"backend": "trt"}, "has no engine; build one with: seqexport build"),
    ({"backend": "trt", "device": "cpu"}, "`device`: an engine of TensorRT"),
    ({"engine": "h100"}, "`engine`: names an engine of `backend='trt'`"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(options: dict[str, Any], why: str, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why):
        package(bundle, tmp_path / "r", **{"name": "m", **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "why"), [
    ({"engine": "other"}, "`engine` other: .* has nvidia-h100-80gb-hbm3-trt8.6.0; name one"),
    ({"max_batch": 5}, "`max_batch` 5: .*plan was built for 4"),
    ({"max_tokens": 1 << 20}, "`max_tokens` 1048576: .*plan was built for"),
])  # fmt: skip
def test_more_than_the_engine_takes_is_refused(options: Any, why: str, built: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why):
        package(built, tmp_path / "r", name="m", backend="trt", **options)
    assert not (tmp_path / "r").exists()


def test_only_what_seqexport_wrote_is_replaced(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    package(bundle, folder, name="m")
    with pytest.raises(UserError, match="is a repository already; take `force=True`"):
        package(bundle, folder, name="m")
    package(bundle, folder, name="n", force=True)
    assert sorted(each.name for each in folder.iterdir()) == ["n", "n-engine"]
    (folder / "mine").mkdir()
    with pytest.raises(UserError, match="holds what seqexport did not write"):
        package(bundle, folder, name="m", force=True)
    assert sorted(each.name for each in folder.iterdir()) == ["mine", "n", "n-engine"]
