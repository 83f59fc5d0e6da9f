"""Each family's tiny model, its graph, and what the original makes of prompts, made once a session."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from seqexport.runtimes.manifest import StateSpec
from seqexport.runtimes.pytorch.checkpoint import load_original
from tests.exporter.families import EXPORTED, VOCAB, save
from tests.exporter.reading import Reading, export, original

LENGTHS = (9, 5, 1)
Loaded = Callable[[str, str], PreTrainedModel]
Traced = Callable[..., tuple[list[StateSpec], ir.Model]]
Readings = Callable[[str, str], list[Reading]]


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A family's model in a dtype, from a checkpoint on disk."""
    root = tmp_path_factory.mktemp("families")

    @functools.cache
    def saved(name: str) -> Path:
        return save(EXPORTED[name], root / name)

    return functools.cache(lambda name, dtype: load_original(str(saved(name)), dtype=dtype))


@pytest.fixture(scope="session")
def traced(loaded: Loaded) -> Traced:
    """Its states and its graph in an opset."""
    return functools.cache(lambda name, dtype, opset=20: export(loaded(name, dtype), opset=opset))


@pytest.fixture(scope="session")
def prompts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(VOCAB, (length,), generator=generator) for length in LENGTHS]


@pytest.fixture(scope="session")
def readings(loaded: Loaded, prompts: list[Tensor]) -> Readings:
    return functools.cache(lambda name, dtype: [original(loaded(name, dtype), prompt) for prompt in prompts])
