"""``inspect``, ``verify`` and others on bundles that are whole, damaged or foreign, and without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from seqexport.runtimes.bundle import MANIFEST, MODEL, REFERENCE, open_bundle, write_manifest
from tests.cli.conftest import Run
from tests.sealing import reseal

COMMANDS: dict[str, tuple[str, ...]] = {"inspect": (), "verify": (), "generate": ("--prompt", "x")}


def edit_manifest(folder: Path, **changes: object) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**data, **changes}))


def foreign(folder: Path) -> None:
    """A valid graph of another program, with the right hash."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "other", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / MODEL)
    reseal(folder)


def invalid(folder: Path) -> None:
    (folder / MODEL).write_bytes(b"not a graph at all")
    reseal(folder)


def perturb(folder: Path) -> None:
    data = folder / f"{MODEL}.data"
    weights = np.fromfile(data, np.float32)
    (weights * 1.001).tofile(data)
    reseal(folder)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer": (
        lambda f: edit_manifest(f, format_version=99),
        f"{MANIFEST}: format version 99, this seqexport reads 1 to",
    ),
    "hash": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json: sha256"),
    "missing": (lambda f: (f / f"{MODEL}.data").unlink(), f"{MODEL}.data: cannot be read (No such file or directory)"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), f"is not a bundle: cannot read {MANIFEST}"),
    "no capacity": (
        lambda f: edit_manifest(
            f, states=[{"layer": 0, "kind": "key", "shape": ["batch", 1, "max_len", 2], "dtype": "float32"}]
        ),
        f"{MANIFEST} is damaged: states that grow, and no capacity",
    ),
    "no JSON": (lambda f: (f / MANIFEST).write_text("{"), f"{MANIFEST} is damaged"),
    "reference": (lambda f: (f / REFERENCE).write_bytes(b"short"), f"{REFERENCE}: sha256"),
}
UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "foreign": (foreign, "its inputs are not those listed (input_ids)"),
    "invalid": (
        invalid,
        "describes: it is no ONNX graph, or cut short; export the model again",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bundle_is_one_line(name: str, command: str, run: Run, copy: Path) -> None:
    break_it, message = BROKEN[name]
    break_it(copy)
    refusal = run(command, copy, *COMMANDS[command]).refusal
    assert message in refusal
    assert str(copy) in refusal


@pytest.mark.parametrize("command", ["verify", "generate"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_a_graph_that_cannot_be_run_is_one_line(name: str, command: str, run: Run, copy: Path) -> None:
    break_it, message = UNUSABLE[name]
    break_it(copy)
    assert message.format(folder=copy) in run(command, copy, *COMMANDS[command]).refusal


@pytest.mark.parametrize("command", ["verify", "compare", "bench"])
def test_a_reference_that_is_a_language_models_is_one_line(command: str, run: Run, copy: Path) -> None:
    manifest = open_bundle(copy).manifest
    write_manifest(copy, msgspec.structs.replace(manifest, language_model=None))
    refusal = run(command, copy, *COMMANDS.get(command, ())).refusal
    assert f"{copy / 'reference.safetensors'} is damaged" in refusal


def test_inspect_shows_a_bundle_without_a_vocabulary(run: Run, copy: Path) -> None:
    manifest = open_bundle(copy).manifest
    write_manifest(copy, msgspec.structs.replace(manifest, language_model=None))
    result = run("inspect", copy)
    assert (result.code, result.err) == (0, "")
    assert "vocabulary" not in result.out and "mamba (mamba)" in result.out


def test_no_folder_is_one_line(run: Run, tmp_path: Path) -> None:
    for command, more in COMMANDS.items():
        assert "nowhere is not a bundle: cannot read" in run(command, tmp_path / "nowhere", *more).refusal


def test_a_reference_that_is_sealed_but_damaged_is_one_line(run: Run, copy: Path) -> None:
    (copy / REFERENCE).write_bytes(b"nonsense")
    reseal(copy)
    assert f"{REFERENCE} is damaged" in run("verify", copy).refusal


def test_verify_exits_0_within_bounds_and_1_beyond(run: Run, copy: Path) -> None:
    good = run("verify", copy)
    assert (good.code, good.err) == (0, "")
    assert "out of bounds" not in good.out
    perturb(copy)
    bad = run("verify", copy, "--json")
    checks = json.loads(bad.out)
    assert (bad.code, bad.err) == (1, "")
    assert not all(check["passed"] for check in checks)
    assert set(checks[0]) == {"name", "error", "torch_error", "allowed", "not_finite", "passed"}
    assert "out of bounds" in run("verify", copy).out


def test_an_export_that_is_out_of_bounds_is_refused(run: Run, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqexport.exporter import pipeline

    perturb(copy)
    monkeypatch.setattr(pipeline, "export", lambda *args: open_bundle(copy))
    refusal = run("onnx", "--arch", "mamba").refusal
    assert refusal.startswith(f"{copy} was written, but ")
    assert refusal.endswith(f"see: seqexport verify {copy}")


def test_inspect_shows_the_manifest(run: Run, shipped: Path) -> None:
    result = run("inspect", shipped, "--json")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out) == json.loads((shipped / MANIFEST).read_text())
    table = run("inspect", shipped).out
    for name in ("input_ids", "conv_state", "recurrent_state", "preset:mamba", MODEL, "SelectiveScan"):
        assert name in table


@pytest.mark.parametrize(
    ("backend", "message"), [("ort", "has no CUDAExecutionProvider here"), ("torch", "no CUDA device")]
)
def test_a_gpu_that_is_not_there_is_one_line(run: Run, shipped: Path, backend: str, message: str) -> None:
    import onnxruntime
    import torch

    if torch.cuda.is_available() or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is a GPU")
    refusal = run("generate", shipped, "--prompt", "x", "--device", "cuda", "--backend", backend).refusal
    assert message in refusal
    assert refusal.endswith("use --device cpu")


def test_an_original_that_is_gone_is_one_line(run: Run, shipped: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    refusal = run("generate", shipped, "--prompt", "x", "--backend", "torch", "--original", gone).refusal
    assert refusal.startswith(f"{gone}: no such folder")


def test_what_is_not_finite_is_named_and_json_stays_strict(run: Run, copy: Path) -> None:
    data = copy / f"{MODEL}.data"
    weights = np.fromfile(data, np.float32)
    weights[-1000:] = np.nan
    weights.tofile(data)
    reseal(copy)
    told = run("verify", copy)
    assert told.code == 1
    assert "not finite: logits after prefill, prefill whole: prefill.logits: " in told.out
    strict = run("verify", copy, "--json")
    checks = json.loads(strict.out, parse_constant=pytest.fail)
    assert (strict.code, strict.err) == (1, "")
    assert any(check["error"] is None and not check["passed"] and check["not_finite"] for check in checks)
    for sampling in (
        [],
        ["--temperature", 1],
        ["--temperature", 1, "--top-k", 5],
        ["--temperature", 1, "--top-p", 0.5],
    ):
        refusal = run("generate", copy, "--prompt", "def ", *sampling).refusal
        assert refusal.startswith("the logits of sequence 1 after 4 tokens are not finite on ort in float32: ")


def test_options_of_another_backend_are_refused_as_flags(run: Run, shipped: Path) -> None:
    refusal = run("generate", shipped, "--backend", "torch", "--no-plugins", "--prompt", "x").refusal
    assert refusal.startswith(
        "--no-plugins: not an option of backend torch; those are: --device, --original, --threads"
    )


def test_inspect_tells_what_fits_a_board(run: Run, shipped: Path) -> None:
    told = run("inspect", shipped, "--device", "Raspberry Pi 5 8GB", "--batch", "2")
    assert (told.code, told.err) == (0, "")
    for line in ("on Raspberry Pi 5 8GB", "ONNX Runtime, float32", "2 of 2,048 tokens", "weights", "together", "floor"):
        assert line in " ".join(told.out.split())
    fit = json.loads(run("inspect", shipped, "--device", "raspberry-pi-5-8gb", "--batch", "2", "--json").out)
    assert fit["fits"] == {"run": True, "load": True} and fit["batch"] == 2
    assert sum(part["bytes"] for part in fit["parts"] if "run" in part["phases"]) == fit["needed"]["run"] < fit["free"]


def test_inspect_exits_1_where_a_board_cannot_hold_a_bundle(run: Run, shipped_transformer: Path) -> None:
    told = run("inspect", shipped_transformer, "--device", "jetson-nano-4gb", "--batch", "400")
    assert (told.code, told.err) == (1, "")
    assert "no" in told.out and "- one sequence at a time: --batch 1" in told.out


def test_what_inspect_refuses_about_boards(run: Run, shipped_transformer: Path) -> None:
    assert (
        "no board 'orin-nano-9gb': the nearest are orin-nano-8gb"
        in run("inspect", shipped_transformer, "--device", "orin-nano-9gb").refusal
    )
    assert "--batch and --len go with --device" in run("inspect", shipped_transformer, "--len", "8").refusal
    refusal = run("inspect", shipped_transformer, "--device", "l4", "--len", "8193").refusal
    assert "--len 8193: the bundle was exported for at most 8192" in refusal
