"""A checkpoint that is not sound gives one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.runtimes.checkpoint.edits import INDEX, edit, edit_weights, refusal, truncate


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
