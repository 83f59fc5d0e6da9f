"""Checkpoints that load whole, and sources that are none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertLMHeadModel, LlamaConfig, LlamaForCausalLM, T5Config

from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.quiet import quiet
from tests.runtimes.checkpoint.edits import SIZES, edit, edit_weights, refusal


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
