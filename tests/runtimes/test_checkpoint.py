"""Loading the PyTorch original: what is sound loads whole, what is not gives one line."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, LlamaConfig, LlamaForCausalLM, T5Config

from seqexport.plugins.errors import UserError
from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.quiet import quiet

SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "llama"
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(path)
    return path


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "llama"))


@pytest.fixture
def sharded(saved: Path, tmp_path: Path) -> Path:
    path = tmp_path / "sharded"
    LlamaForCausalLM.from_pretrained(saved).save_pretrained(path, max_shard_size="10KB")
    assert len(list(path.glob("model-*.safetensors"))) > 1
    return path


def edit(folder: Path, file: str = "config.json", **changes: Any) -> None:
    data = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**data, **changes}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(file: Path, size: int | None = None) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - 100 if size is None else size])


def refusal(source: object, capfd: pytest.CaptureFixture[str], **options: Any) -> str:
    """The one line that loading gives; nothing is printed beside it."""
    capfd.readouterr()
    with pytest.raises(UserError) as error:
        load_original(str(source), **options)
    out, err = capfd.readouterr()
    line = str(error.value)
    assert (out, err) == ("", "")
    assert "\n" not in line
    return line


def test_loads_bit_equal_in_eval_mode_on_cpu(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = load_original(str(saved))
    weights = load_file(saved / "model.safetensors")
    assert not model.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_loads_shards(saved: Path, sharded: Path) -> None:
    whole, parts = load_original(str(saved)).state_dict(), load_original(str(sharded)).state_dict()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load_original(str(tmp_path))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_head_of_its_own_counts_though_the_config_ties_it(copy: Path) -> None:
    edit(copy, tie_word_embeddings=True)
    weights = load_file(copy / "model.safetensors")
    model = load_original(str(copy))
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert torch.equal(model.get_output_embeddings().weight, weights["lm_head.weight"])
    assert torch.equal(model.get_input_embeddings().weight, weights["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("in_config", "in_files", "asked", "loaded"),
    [
        ("float16", torch.float32, None, torch.float16),
        ("bfloat16", torch.bfloat16, "float32", torch.float32),
        (None, torch.bfloat16, None, torch.bfloat16),
        ("float32", torch.float16, "bfloat16", torch.bfloat16),
    ],
)
def test_dtype_is_asked_for_or_the_configs_or_the_files(
    copy: Path, in_config: str | None, in_files: torch.dtype, asked: str | None, loaded: torch.dtype
) -> None:
    edit(copy, dtype=in_config)
    edit_weights(copy, lambda w: w.update({name: tensor.to(in_files) for name, tensor in w.items()}))
    assert load_original(str(copy), dtype=asked).dtype == loaded


def test_quiet_restores_logging() -> None:
    logger = logging.getLogger("transformers")
    with quiet():
        assert not logger.isEnabledFor(logging.CRITICAL)
    assert logger.isEnabledFor(logging.CRITICAL)


def adapter_alone(folder: Path) -> None:
    """As PEFT saves one: no config.json, no model.safetensors."""
    for file in folder.iterdir():
        file.unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base", "r": 8}))
    save_file({"base_model.model.lm_head.lora_A.weight": torch.ones(8, 24)}, folder / "adapter_model.safetensors")


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda p: (p / "config.json").unlink(), "has no config.json; expected a folder with"),
    "config is not JSON": (lambda p: truncate(p / "config.json", 50), "config.json: not JSON"),
    "config is binary": (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json: not JSON"),
    "config is a list": (
        lambda p: (p / "config.json").write_text("[]"),
        "expected a JSON object, found list",
    ),
    "no model_type": (lambda p: edit(p, model_type=None), "config.json has no model_type"),
    "model_type is a number": (lambda p: edit(p, model_type=3), "config.json has no model_type"),
    "unknown architecture": (lambda p: edit(p, model_type="nope"), "does not know the architecture 'nope'"),
    "remote code": (
        lambda p: edit(p, model_type="nope", auto_map={"AutoModelForCausalLM": "code.Nope"}),
        "'nope' needs the Python code that the checkpoint brings; if you trust its author, take",
    ),
    "remote code of another task": (
        lambda p: edit(p, model_type="nope", auto_map={"AutoConfig": "code.C", "AutoModel": "code.Nope"}),
        "is not a language model: the Python code that it brings for 'nope' makes AutoConfig, AutoModel; expected",
    ),
    "remote classifier": (
        lambda p: edit(
            p,
            model_type="nope",
            architectures=["NopeForSequenceClassification"],
            auto_map={"AutoModelForCausalLM": "code.Nope", "AutoModelForSequenceClassification": "code.Nope2"},
        ),
        "is a NopeForSequenceClassification; expected a causal language model",
    ),
    "weights elsewhere": (
        lambda p: edit(p, transformers_weights="other.safetensors"),
        "config.json names its weights ('other.safetensors'); expected them as transformers saves them",
    ),
    "invalid config": (
        lambda p: edit(p, hidden_size="wide"),
        "config.json is not a valid 'llama' configuration",
    ),
    "another task": (
        lambda p: edit(p, architectures=["LlamaForSequenceClassification"]),
        "is a LlamaForSequenceClassification; expected a causal language model",
    ),
    "quantised": (
        lambda p: edit(p, quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantised (gptq)",
    ),
    "float64 config": (lambda p: edit(p, dtype="float64"), "is float64; expected float32, float16, bfloat16"),
    "no weights": (
        lambda p: (p / "model.safetensors").unlink(),
        "has no safetensors weights; expected model.safetensors",
    ),
    "adapter": (
        lambda p: (p / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}'),
        "holds an adapter of some/base; merge it first (PEFT's merge_and_unload) and save the merged model",
    ),
    "adapter of nobody knows what": (
        lambda p: (p / "adapter_config.json").write_text("{}"),
        "holds an adapter of another model; merge it first",
    ),
    "adapter alone": (lambda p: adapter_alone(p), "holds an adapter of some/base; merge it first"),
    "pickle": (
        lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"),
        "pytorch_model.bin, which can run code when read; safetensors only: convert with",
    ),
    "truncated": (
        lambda p: truncate(p / "model.safetensors"),
        "model.safetensors: not a whole safetensors file",
    ),
    "empty file": (
        lambda p: truncate(p / "model.safetensors", 0),
        "model.safetensors: not a whole safetensors file",
    ),
    "LFS pointer": (
        lambda p: (p / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        "a Git LFS pointer, not the weights; run: git lfs pull",
    ),
    "mismatched shapes": (
        lambda p: edit(p, intermediate_size=44),
        "model.layers.0.mlp.down_proj.weight has the shape [24, 40], and config.json asks for [24, 44]",
    ),
    "mismatched shapes of a tied pair": (
        lambda p: edit(p, vocab_size=40, tie_word_embeddings=True),
        "lm_head.weight has the shape [31, 24], and config.json asks for [40, 24] (and 1 more)",
    ),
    "missing tensor": (
        lambda p: edit_weights(p, lambda w: w.pop("model.layers.1.mlp.up_proj.weight")),
        "the weights lack model.layers.1.mlp.up_proj.weight, which config.json asks for",
    ),
    "missing head": (
        lambda p: edit_weights(p, lambda w: w.pop("lm_head.weight")),
        "the weights lack lm_head.weight, which config.json asks for",
    ),
    "missing layer": (lambda p: edit(p, num_hidden_layers=3), "the weights lack model.layers.2."),
    "unexpected layer": (
        lambda p: edit(p, num_hidden_layers=1),
        "the weights have model.layers.1.input_layernorm.weight (and 8 more), for which config.json has",
    ),
    "layers without end": (
        lambda p: edit(p, num_hidden_layers=10**9),
        "num_hidden_layers 1000000000; expected at most",
    ),
    "more layers than tensors": (
        lambda p: edit(p, num_hidden_layers=5000),
        "config.json asks for 5,000 layers, and the weights hold 21 tensors",
    ),
    "a huge vocabulary": (lambda p: edit(p, vocab_size=2**40), "vocab_size 1099511627776; expected at most"),
    "a large vocabulary": (lambda p: edit(p, vocab_size=2**30), "config.json asks for 51,539,"),
    "endless positions": (lambda p: edit(p, max_position_embeddings=10**18), "max_position_embeddings 10000"),
    "a window of text": (lambda p: edit(p, sliding_window="x"), "sliding_window 'x'; expected a number of tokens"),
    "a window of lists": (lambda p: edit(p, sliding_window=[[1]]), "sliding_window [[1]]; expected a number"),
    "half a window": (lambda p: edit(p, sliding_window=1.5), "sliding_window 1.5; expected a number"),
    "a dtype that is markup": (lambda p: edit(p, dtype="[/x]"), "config.json is not a valid 'llama' configuration: "),
    "architectures are a number": (
        lambda p: edit(p, architectures=5),
        "architectures 5; expected a list of class names",
    ),
    "auto_map is a number": (
        lambda p: edit(p, model_type="nope", auto_map=5),
        "config.json is not a valid configuration",
    ),
    "brackets in brackets": (
        lambda p: (p / "config.json").write_text("[" * 100_000),
        "config.json: not JSON (nested too",
    ),
    "a config of megabytes": (
        lambda p: edit(p, model_type="x" * 2**23),
        "config.json: cannot be read (8,389,",
    ),
    "integers for weights": (
        lambda p: edit_weights(p, lambda w: w.update({name: x.to(torch.int32) for name, x in w.items()})),
        "lm_head.weight is I32; expected floating-point weights",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_defect_is_one_line(name: str, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    breakage, expected = BREAKAGES[name]
    breakage(copy)
    line = refusal(copy, capfd)
    assert expected in line
    assert line.startswith(str(copy))


def first_shard(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


SHARD_BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (
        lambda p: first_shard(p).unlink(),
        "missing, though model.safetensors.index.json lists it",
    ),
    "truncated shard": (lambda p: truncate(first_shard(p)), "not a whole safetensors file"),
    "broken index": (lambda p: truncate(p / INDEX), "model.safetensors.index.json: not JSON"),
    "index without map": (
        lambda p: edit(p, INDEX, weight_map=None),
        "expected a weight_map of tensors to files",
    ),
    "shard elsewhere": (
        lambda p: edit(p, INDEX, weight_map={"lm_head.weight": "../model.safetensors"}),
        "lists '../model.safetensors'; expected a safetensors file beside it",
    ),
    "pickled shard": (
        lambda p: edit(p, INDEX, weight_map={"lm_head.weight": "x.bin"}),
        "lists 'x.bin'; expected",
    ),
    "shard of a name without end": (
        lambda p: edit(p, INDEX, weight_map={"lm_head.weight": "n" * 300 + ".safetensors"}),
        "cannot be read (File name too long)",
    ),
    "shard of another model": (lambda p: save_file({"x": torch.ones(1)}, first_shard(p)), "the weights lack"),
}


@pytest.mark.parametrize("name", SHARD_BREAKAGES)
def test_defect_of_shards_is_one_line(name: str, sharded: Path, capfd: pytest.CaptureFixture[str]) -> None:
    breakage, expected = SHARD_BREAKAGES[name]
    breakage(sharded)
    assert expected in refusal(sharded, capfd)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_is_not_waited_for(name: str, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    assert refusal(copy, capfd).startswith(f"{copy / name}: cannot be read (a pipe; expected a regular file)")


def test_remote_code_of_a_known_architecture_is_not_run(copy: Path) -> None:
    (copy / "code.py").write_text("raise SystemExit('ran')")
    edit(copy, auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"})
    assert type(load_original(str(copy))) is LlamaForCausalLM


def test_models_that_are_not_causal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    T5Config().save_pretrained(tmp_path)
    assert "is an encoder-decoder (t5); expected a causal language model" in refusal(tmp_path, capfd)
    edit(tmp_path, model_type="vit", architectures=None, is_encoder_decoder=False)
    assert "is a 'vit' model; expected a causal language model" in refusal(tmp_path, capfd)


def test_masked_language_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=31)
    BertLMHeadModel(small).save_pretrained(tmp_path)
    edit(tmp_path, architectures=["BertForMaskedLM"])
    assert "is a BertForMaskedLM; expected a causal" in refusal(tmp_path, capfd)


@pytest.mark.parametrize("source", ["", "./nowhere", "/no/where/at/all", "a b", "x" * 5000, "a\0b", "~nobody/x/y"])
def test_source_that_is_nothing(source: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in refusal(source, capfd)


def test_source_that_is_a_file(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "model.safetensors is a file; expected a folder with" in refusal(saved / "model.safetensors", capfd)


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refusal("nobody/no-such-model", capfd)
    assert line.startswith("nobody/no-such-model: no such folder, and the Hugging Face hub cannot be reached")


def test_unknown_dtype(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "`dtype` 'int8': expected one of float32, float16, bfloat16" in refusal(saved, capfd, dtype="int8")


EMBEDDING = "model.embed_tokens.weight"


def set_row(weights: dict[str, torch.Tensor], value: float, name: str = EMBEDDING) -> None:
    weights[name][..., -1] = value


@pytest.mark.parametrize(
    ("dtype", "value", "limit", "advice"),
    [
        ("float16", 7e4, "ends at 65504", "bf16 or fp32"),
        ("float16", -7e4, "ends at 65504", "bf16 or fp32"),
        ("bfloat16", 3.4e38, "ends at 3.38953e+38", "fp32"),
    ],
)
def test_a_weight_beyond_the_dtype_is_named(
    copy: Path, capfd: pytest.CaptureFixture[str], dtype: str, value: float, limit: str, advice: str
) -> None:
    edit_weights(copy, lambda weights: set_row(weights, value))
    line = refusal(copy, capfd, dtype=dtype)
    what = f"{EMBEDDING} has 31 of 744 values, the largest {value:.6g} at [0, 23], beyond {dtype}, which {limit}"
    assert f"{copy}: {what}; export in {advice}" in line
    assert "`clamp_weights=True`" in line
    assert load_original(str(copy), dtype="float32").dtype == torch.float32


def test_a_float64_weight_beyond_float32_is_named(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def widen(weights: dict[str, torch.Tensor]) -> None:
        weights[EMBEDDING] = weights[EMBEDDING].double()
        set_row(weights, 1e39)

    edit_weights(copy, widen)
    line = refusal(copy, capfd, dtype="float32")
    assert "the largest 1e+39 at [0, 23], beyond float32" in line
    assert "export in" not in line


def test_weights_beyond_the_dtype_are_clamped_where_that_is_asked_for(copy: Path) -> None:
    def grow(weights: dict[str, torch.Tensor]) -> None:
        weights[EMBEDDING][:, 0], weights[EMBEDDING][:, 1] = 7e4, -1e9
        weights["model.norm.weight"][3] = 65505.0  # rounds to 65504: not beyond

    edit_weights(copy, grow)
    clamped: list[str] = []
    model = load_original(str(copy), dtype="float16", clamped=clamped)
    assert clamped == [EMBEDDING]
    table = model.get_input_embeddings().weight
    assert set(table[:, 0].tolist()) == {65504.0}
    assert set(table[:, 1].tolist()) == {-65504.0}
    sound = load_file(copy / "model.safetensors")[EMBEDDING][:, 2:].half()
    assert torch.equal(table[:, 2:], sound)
    assert load_original(str(copy), dtype="float32", clamped=clamped).dtype == torch.float32
    assert clamped == [EMBEDDING]


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_weight_is_named_once(copy: Path, capfd: pytest.CaptureFixture[str], tied: bool) -> None:
    def grow(weights: dict[str, torch.Tensor]) -> None:
        set_row(weights, 7e4)
        if tied:
            del weights["lm_head.weight"]
        else:
            set_row(weights, 8e4, "lm_head.weight")

    edit(copy, tie_word_embeddings=tied)
    edit_weights(copy, grow)
    line = refusal(copy, capfd, dtype="float16")
    assert ("and 1 more" in line) == (not tied)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("clamped", [None, []], ids=["refuse", "clamp"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_weight_that_is_not_finite_in_the_checkpoint_is_named(
    copy: Path, capfd: pytest.CaptureFixture[str], value: float, clamped: list[str] | None, dtype: str
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(copy, lambda weights: set_row(weights, value, name))
    line = refusal(copy, capfd, dtype=dtype, clamped=clamped)
    kind = "NaN" if value != value else "infinite"
    assert (
        f"model.layers.1.mlp.up_proj.weight is not finite in the checkpoint itself: 40 of 960 values ({kind})" in line
    )
