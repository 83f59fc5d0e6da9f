"""What is done to a checkpoint, and what loading it then says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqexport.plugins.errors import UserError
from seqexport.runtimes.pytorch.checkpoint import load_original

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
