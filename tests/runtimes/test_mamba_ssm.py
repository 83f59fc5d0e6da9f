"""Mamba as its authors save it, and as transformers first did: under today's names, or named as what it is."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MambaForCausalLM

from seqexport.plugins.errors import UserError
from seqexport.runtimes.pytorch.checkpoint import load_original
from tests.conftest import Saved

ORIGINAL: dict[str, Any] = {
    "d_model": 20,
    "n_layer": 2,
    "vocab_size": 35,
    "ssm_cfg": {"d_state": 5, "d_conv": 3, "dt_rank": 3, "bias": True},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 37,
}
"""What mamba_ssm writes beside the weights of the test checkpoint ``mamba``; its table is padded to 37 rows."""


@pytest.fixture
def mamba(checkpoint: Saved, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("mamba"), tmp_path / "mamba-tiny"))


def old_names(folder: Path) -> dict[str, torch.Tensor]:
    weights = {
        name.replace("backbone.embeddings.", "backbone.embedding."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors")
    return weights


def as_mamba_ssm(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """The files of ``folder`` in the authors' layout: a head of its own, though it is tied."""
    weights = old_names(folder)
    weights["lm_head.weight"] = weights["backbone.embedding.weight"].clone()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**ORIGINAL, **changes}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    return weights


def assert_same(folder: Path, expected: Path) -> None:
    ours, original = load_original(str(folder)), MambaForCausalLM.from_pretrained(expected)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, original(ids).logits)
    assert ours.get_input_embeddings().weight.shape == (37, 20)


def test_old_names_of_transformers(checkpoint: Saved, mamba: Path) -> None:
    assert "backbone.embedding.weight" in old_names(mamba)
    assert_same(mamba, checkpoint("mamba"))


def test_the_authors_layout(checkpoint: Saved, mamba: Path) -> None:
    as_mamba_ssm(mamba)
    assert_same(mamba, checkpoint("mamba"))
    config = load_original(str(mamba)).config
    assert (config.model_type, config.vocab_size, config.time_step_rank) == ("mamba", 37, 3)


def pickle(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["backbone.embedding.weight"]  # tied, as torch.save keeps it
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_pickled_weights_come_with_the_command_that_converts_them(checkpoint: Saved, mamba: Path) -> None:
    as_mamba_ssm(mamba)
    pickle(mamba)
    with pytest.raises(UserError) as error:
        load_original(str(mamba))
    told, _, command = str(error.value).partition("convert them in its folder: ")
    assert told == f"{mamba} is in the original layout of mamba_ssm, its weights pickled; "
    subprocess.run([sys.executable, *shlex.split(command)[1:]], cwd=mamba, check=True)
    assert_same(mamba, checkpoint("mamba"))


@pytest.mark.parametrize("name", ["mamba-130m", "mamba-2.8b"])
def test_a_checkpoint_of_the_authors_is_told_its_twin(mamba: Path, name: str) -> None:
    as_mamba_ssm(mamba)
    pickle(mamba)
    with pytest.raises(UserError, match=f"its weights pickled; use the hub's state-spaces/{name}-hf$"):
        load_original(str(mamba.rename(mamba.parent / name)))


CHANGES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "mamba-2": (
        lambda: {"ssm_cfg": {"layer": "Mamba2"}},
        "is a Mamba-2 in the layout of mamba_ssm, of which only Mamba-1 is read; use a copy in transformers' layout",
    ),
    "attention": (lambda: {"attn_layer_idx": [1]}, "has attn_layer_idx [1]; expected [], which is all that"),
    "mlp": (lambda: {"d_intermediate": 40}, "has d_intermediate 40; expected 0"),
    "layer norm": (lambda: {"rms_norm": False}, "has rms_norm False; expected True"),
    "other mixer": (lambda: {"ssm_cfg": {"gates": 3}}, "has the unknown ssm_cfg 'gates'"),
    "no vocabulary": (lambda: {"vocab_size": None}, "config.json is not a valid configuration of mamba_ssm"),
    "another size": (lambda: {"d_model": 24}, "has the shape"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_transformers_mamba_is_not_is_one_line(mamba: Path, name: str) -> None:
    change, message = CHANGES[name]
    as_mamba_ssm(mamba, **change())
    with pytest.raises(UserError) as error:
        load_original(str(mamba))
    assert message in str(error.value)
    assert str(error.value).startswith(str(mamba))
    assert "\n" not in str(error.value)
