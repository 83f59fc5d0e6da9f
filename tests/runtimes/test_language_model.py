"""The language model inside a model that reads images or sound too is what is loaded, or the line says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMultimodalLM

from seqexport.plugins.errors import UserError
from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.quiet import quiet
from tests.exporter.families import NO_LANGUAGE_MODEL, VOCAB, WRAPPERS, save


@pytest.fixture(params=WRAPPERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    return save(WRAPPERS[name][0], tmp_path / name)


def test_it_says_what_the_whole_says(name: str, folder: Path) -> None:
    model, ids = load_original(str(folder)), torch.arange(2 * 9).reshape(2, 9) % (VOCAB - 1)
    with quiet(), torch.no_grad():
        whole = AutoModelForMultimodalLM.from_pretrained(folder)
        assert torch.equal(model(ids).logits, whole(ids).logits)
    assert type(model).__name__ == WRAPPERS[name][1]
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_weights_under_the_names_of_newer_checkpoints(tmp_path: Path) -> None:
    folder = save(WRAPPERS["llava"][0], tmp_path / "llava")
    weights = load_file(folder / "model.safetensors")
    renamed = {
        f"model.{name}".replace("model.language_model.model.", "model.language_model.").replace(
            "model.language_model.lm_head.", "lm_head."
        ): tensor
        for name, tensor in weights.items()
    }
    assert {"model.language_model.norm.weight", "lm_head.weight"} <= renamed.keys()
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    state = load_original(str(folder)).state_dict()
    assert torch.equal(state["model.norm.weight"], weights["language_model.model.norm.weight"])
    assert torch.equal(state["lm_head.weight"], weights["language_model.lm_head.weight"])


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    folder = save(WRAPPERS["llava"][0], tmp_path / "llava")
    weights = load_file(folder / "model.safetensors")
    del weights["language_model.model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"the weights lack model.language_model.layers.1.mlp.up_proj.weight, which"):
        load_original(str(folder))


def test_a_text_part_without_a_language_model_of_its_own(tmp_path: Path) -> None:
    folder = save(NO_LANGUAGE_MODEL, tmp_path / "qwen2_vl")
    with pytest.raises(UserError) as error:
        load_original(str(folder))
    assert str(error.value) == (
        f"{folder} is a Qwen2VLForConditionalGeneration, of more than text, and transformers has no causal "
        "language model for its text part (qwen2_vl_text); expected a causal language model"
    )


def test_a_model_of_images_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "architectures": ["CLIPModel"]}))
    with pytest.raises(UserError, match="is a 'CLIPModel' model; expected a causal language model"):
        load_original(str(tmp_path))
