"""``seqexport onnx``: what it refuses, in one line, and what it says of an export."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from seqexport.runtimes.bundle import open_bundle
from seqexport.runtimes.pytorch.runner import TorchRunner
from seqexport.runtimes.quiet import quiet
from tests.cli.conftest import Run, contents
from tests.conftest import Exported, Saved
from tests.exporter.families import WRAPPERS, save

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(checkpoint: Saved, tmp_path: Path) -> Path:
    with quiet():
        LlamaForCausalLM.from_pretrained(checkpoint("llama")).save_pretrained(
            tmp_path / "in" / "sharded", max_shard_size="10KB"
        )
    return tmp_path / "in" / "sharded"


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def only_pickles(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


DEFECTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        "{folder} has no config.json; expected a folder with config.json and model.safetensors, or a Hugging Face "
        "hub id",
    ),
    "cut weights": (lambda folder: cut(folder / "model.safetensors"), "{folder}/model.safetensors: not a whole"),
    "pickles": (
        only_pickles,
        "{folder} has its weights in pytorch_model.bin, which can run code when read; safetensors only",
    ),
    "other sizes": (
        lambda folder: edit(folder, intermediate_size=48),
        "has the shape [24, 40], and config.json asks for [24, 48]",
    ),
    "unknown": (
        lambda folder: edit(folder, model_type="from_the_future", auto_map=None),
        "does not know the architecture 'from_the_future'; upgrade transformers, or use another model",
    ),
    "remote code": (
        lambda folder: edit(folder, model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Mine"}),
        "'mine' needs the Python code that the checkpoint brings; if you trust its author, take --trust-remote-code",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_of_the_checkpoint_is_one_line(name: str, run: Run, llama: Path, work: Path) -> None:
    break_it, message = DEFECTS[name]
    break_it(llama)
    before = contents(llama)
    refusal = run("onnx", "--model", llama, "-o", "new/out").refusal
    assert message.format(folder=llama) in refusal
    assert str(llama) in refusal
    assert contents(work) == {}
    assert contents(llama) == before


@pytest.mark.parametrize("defect", ["cut", "missing"])
def test_a_bad_shard_is_named(defect: str, run: Run, sharded: Path, work: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    if defect == "cut":
        cut(shard)
    else:
        shard.unlink()
    refusal = run("onnx", "--model", sharded, "-o", "out").refusal
    expected = "not a whole safetensors file" if defect == "cut" else f"missing, though {INDEX} lists it"
    assert refusal.startswith(f"{shard}: {expected}")
    assert refusal.endswith("copy the checkpoint again")
    assert contents(work) == {}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--opset", "5"], "--opset 5: expected 18 to 23, or 27 with --target portable"),
        (["--opset", "27", "--target", "ort"], "--opset 27 is for --target portable; for ort expected 18 to 23"),
        (["--arch", "mamba"], "--arch mamba, but {folder} is a LlamaForCausalLM (transformer); drop --arch"),
    ],
    ids=["opset", "target", "arch"],
)
def test_options_that_do_not_fit_are_one_line(
    args: list[str], message: str, run: Run, llama: Path, work: Path, traced_once: None
) -> None:
    assert run("onnx", "--model", llama, "-o", "out", *args).refusal.startswith(message.format(folder=llama))
    assert contents(work) == {}


def test_more_tokens_than_positions_are_refused(run: Run, checkpoint: Saved, work: Path) -> None:
    for name, reason in (("gpt2", "has learned positions for 64"), ("phi3_longrope", "changes its rotary")):
        refusal = run("onnx", "--model", checkpoint(name), "-o", "out", "--max-len", 999).refusal
        assert refusal.startswith("--max-len 999: ")
        assert reason in refusal
    assert contents(work) == {}


def test_a_capacity_that_no_machine_has(run: Run, work: Path) -> None:
    told = run("onnx", "--arch", "transformer", "-o", "out", "--max-len", 10**18).refusal
    assert told == "--max-len 1000000000000000000: expected at most 2147483647"
    assert contents(work) == {}


def test_a_folder_that_is_no_bundle_is_never_replaced(run: Run, llama: Path, work: Path) -> None:
    (work / "mine").mkdir()
    (work / "mine" / "thesis.txt").write_text("years of work")
    before = contents(work)
    for more in ([], ["--force"]):
        refusal = run("onnx", "--model", llama, "-o", "mine", *more).refusal
        assert refusal == "mine exists and is not a bundle; it is left as it is: choose another -o"
    (work / "file").write_text("x")
    assert "file exists and is not a bundle" in run("onnx", "--model", llama, "-o", "file", "--force").refusal
    assert contents(work) == {**before, "file": b"x"}


def test_a_bundle_is_replaced_only_with_force(run: Run, llama: Path, work: Path, exported: Exported) -> None:
    shutil.copytree(exported("mamba", target="portable", logits="last").path, work / "out")
    before = contents(work)
    assert run("onnx", "--model", llama, "-o", "out").refusal == (
        "out is already a bundle; take --force to replace it, or choose another -o"
    )
    assert contents(work) == before
    assert run("onnx", "--model", llama, "-o", "out", "--force", "--target", "ort").code == 0
    assert open_bundle(work / "out").manifest.architecture == "llama"
    assert os.listdir(work) == ["out"]


def test_an_export_says_what_it_did_and_how_exact_it_is(run: Run, work: Path) -> None:
    result = run("onnx", "--arch", "mamba")
    assert (result.code, result.err) == (0, "")
    assert "checks: at most" in result.out
    assert "mamba: mamba, 0.5 M parameters, float16, target portable" in result.out
    assert 'next: seqexport generate mamba --prompt "..."' in result.out
    assert open_bundle(work / "mamba").manifest.source.model == "preset:mamba"


def test_names_with_brackets_are_printed_as_they_are(run: Run, llama: Path, work: Path, traced_once: None) -> None:
    odd = llama.rename(llama.parent / "llama[v2][/v2]".replace("/", ""))
    result = run("onnx", "--model", odd, "-o", "out[bold]", "--no-verify")
    assert result.code == 0
    assert str(odd) in result.out
    assert "out[bold]: llama" in result.out
    assert "out[bold]" in run("inspect", "out[bold]").out


def test_bfloat16_is_exported_and_onnx_runtime_says_why_it_does_not_run(
    run: Run, checkpoint: Saved, work: Path
) -> None:
    result = run("onnx", "--model", checkpoint("mamba"), "--dtype", "bf16", "-o", "out")
    reason = "out is bfloat16, for which ONNX Runtime's CPU has no kernels; export in fp16 or fp32"
    assert result.code == 0
    assert f"not verified: {reason}" in result.out
    manifest = open_bundle("out").manifest
    assert manifest.dtype == "bfloat16"
    assert [spec.dtype for spec in manifest.outputs if spec.role == "logits"] == ["float32"]
    assert run("verify", "out").refusal == reason


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("portable", "bfloat16: ONNX Runtime's CPU has no kernels for it, so the bundle will run on CUDA alone; else"),
        ("ort", "bfloat16: ONNX Runtime's CPU has no kernels for it, so the bundle will run on CUDA alone; else"),
        ("tensorrt", "bfloat16: TensorRT has it from version 10 on; else export in fp16 or fp32"),
    ],
)
def test_where_bfloat16_does_not_run_is_said_before_the_long_work(
    run: Run, checkpoint: Saved, work: Path, target: str, expected: str, traced_once: None
) -> None:
    said = run("onnx", "--model", checkpoint("mamba"), "--dtype", "bf16", "-o", "out", "--target", target).out
    assert expected in said
    assert said.index("bfloat16:") < said.index("✓ trace") < said.index("✓ write weights")


@pytest.mark.parametrize("target", ["portable", "ort", "tensorrt"])
@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("preset:mamba", [], "generate"),
        ("preset:mamba", ["--no-verify"], "generate"),
        ("llama", [], "verify"),
        ("llama", ["--no-verify"], "verify"),
        ("mamba", ["--dtype", "bf16"], "inspect"),
        ("mamba", ["--dtype", "bf16", "--no-verify"], "inspect"),
    ],
)
def test_what_it_says_to_do_next_works(
    run: Run,
    checkpoint: Saved,
    work: Path,
    traced_once: None,
    target: str,
    name: str,
    options: list[str],
    word: str,
) -> None:
    model = name if name.startswith("preset:") else checkpoint(name)
    result = run("onnx", "--model", model, "-o", "my out", "--target", target, *options)
    command = shlex.split(result.out.rpartition("next: ")[2])
    if target == "tensorrt":  # an engine is built where there is a GPU
        assert "does not run here: " in result.out
        word = "inspect"
    assert command[:3] == ["seqexport", word, "my out"]
    assert run(*command[1:]).code == 0


@pytest.mark.parametrize(
    ("name", "asked", "reason"),
    [
        ("llama", ("--target", "ort"), "target ort needs ONNX Runtime 1.32 or newer for its attention"),
        ("mamba", ("--opset", "27"), "opset 27 needs ONNX Runtime 1.32 or newer"),
    ],
)
def test_what_needs_a_newer_onnx_runtime_is_not_what_comes_next(
    run: Run,
    checkpoint: Saved,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    traced_once: None,
    name: str,
    asked: tuple[str, ...],
    reason: str,
) -> None:
    reason += ", and this is 1.31.1; upgrade it"
    monkeypatch.setattr("onnxruntime.__version__", "1.31.1")
    for options in ([], ["--no-verify"]):
        said = run("onnx", "--model", checkpoint(name), *asked, "-o", "out", "--force", *options).out
        assert reason in said
        assert said.endswith("next: seqexport inspect out\n")
    assert reason in run("verify", "out").refusal


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("llama", [], "capacity: 64 tokens a sequence; --max-len sets another number"),
        (
            "gpt2",
            [],
            "capacity: 64 tokens a sequence, and no more are possible: GPT2LMHeadModel has learned positions for 64",
        ),
        (
            "phi3_longrope",
            [],
            "capacity: 48 tokens a sequence, and no more are possible: Phi3ForCausalLM changes its rotary frequencies "
            "after 48 (its config says 64)",
        ),
        (
            "phi3_longrope",
            ["--max-len", "40"],
            "capacity: 40 tokens a sequence; --max-len sets another number, to 48 at most",
        ),
    ],
)
def test_the_capacity_is_said_at_export(
    run: Run, checkpoint: Saved, work: Path, name: str, options: list[str], expected: str, traced_once: None
) -> None:
    said = run("onnx", "--model", checkpoint(name), "-o", "out", "--no-verify", *options).out
    assert expected in said
    assert said.index(expected) < said.index("✓ trace")


def test_states_of_fixed_size_have_no_capacity(run: Run, checkpoint: Saved, work: Path, traced_once: None) -> None:
    assert "capacity:" not in run("onnx", "--model", checkpoint("mamba"), "-o", "out", "--no-verify").out


@pytest.mark.parametrize("name", ["gemma3", "mistral3", "llava", "qwen2_audio"])
def test_the_language_model_of_a_model_of_more_than_text_is_exported(run: Run, work: Path, name: str) -> None:
    make, inside = WRAPPERS[name]
    folder = save(make, work.parent / name)
    result = run("onnx", "--model", folder, "-o", "out", "--target", "ort")
    assert (result.code, result.err) == (0, "")
    manifest = open_bundle("out").manifest
    assert f"{folder} is a {name}; only its language model ({manifest.architecture}) is exported" in result.out
    assert "checks: at most" in result.out
    assert manifest.architecture == getattr(transformers, inside).config_class.model_type
    weights = sum(t.numel() for t in load_file(folder / "model.safetensors").values())
    assert manifest.source.parameters < weights
    assert run("verify", "out").code == 0


def test_the_language_model_inside_may_need_what_there_is_not(run: Run, work: Path) -> None:
    folder = save(WRAPPERS["qwen3_5"][0], work.parent / "qwen3_5")
    assert run("onnx", "--model", folder, "-o", "out").refusal == (
        "Qwen3_5ForCausalLM needs the op GatedDeltaRule, which this version does not have, in layer 0 "
        "(Qwen3_5GatedDeltaNet)"
    )
    assert contents(work) == {}


def test_a_secret_behind_a_link_stays_where_it_is(run: Run, llama: Path, work: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the launch code")
    (llama / "special_tokens_map.json").symlink_to(tmp_path / "secret")
    refusal = run("onnx", "--model", llama, "-o", "out").refusal
    assert refusal.startswith(f"{llama}/special_tokens_map.json is a link to {tmp_path}/secret, outside the checkpoint")
    assert contents(work) == {}


def set_weight(folder: Path, name: str, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[-1] = value
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_weight_beyond_the_dtype_is_refused_or_clamped_as_asked(run: Run, llama: Path, work: Path) -> None:
    name = "model.embed_tokens.weight"
    set_weight(llama, name, 7e4)
    asked = ("onnx", "--model", llama, "--dtype", "fp16", "--target", "ort", "-o", "out")
    refusal = run(*asked).refusal
    assert f"{name} has 1 of 888 values, the largest 70000 at [36, 23], beyond float16, which ends at 65504" in refusal
    assert contents(work) == {}
    assert run(*asked, "--clamp-weights").code == 0
    assert open_bundle(work / "out").manifest.source.clamped == (name,)
    assert f"set to the limit of float16 where beyond it: {name}" in " ".join(run("inspect", "out").out.split())
    with TorchRunner(open_bundle(work / "out")) as original:
        assert original.model.get_input_embeddings().weight[36, 23] == 65504


def test_a_nan_of_the_checkpoint_is_refused_by_name(run: Run, checkpoint: Saved, work: Path) -> None:
    mamba = Path(shutil.copytree(checkpoint("mamba"), work / "mamba"))
    set_weight(mamba, "backbone.layers.1.mixer.D", float("nan"))
    refusal = run("onnx", "--model", mamba, "-o", work / "out").refusal
    assert "backbone.layers.1.mixer.D is not finite in the checkpoint itself: 1 of 40 values (NaN)" in refusal
    assert not (work / "out").exists()


def test_states_that_overflow_in_the_dtype_are_refused_by_name(run: Run, checkpoint: Saved, work: Path) -> None:
    """Every weight fits float16; what the model computes with them does not."""
    folder = Path(shutil.copytree(checkpoint("llama"), work / "llama"))
    weights = load_file(folder / "model.safetensors")
    for name in ("up_proj", "down_proj"):
        weights[f"model.layers.0.mlp.{name}.weight"] *= 3e3
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refusal = run("onnx", "--model", folder, "--dtype", "fp16", "-o", work / "out").refusal
    assert refusal.startswith("past_key_values.1.key of PyTorch's own run in float16 is not finite: ")
    assert refusal.endswith("export in bf16 or fp32, whose numbers reach further")
    assert not (work / "out").exists()
