"""A tiny Llama as save_pretrained writes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.runtimes.checkpoint.edits import SIZES


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
