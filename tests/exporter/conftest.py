"""Each family's tiny model, its graph, and what the original makes of prompts, made once a session."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
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
from tests.exporter.steady import is_steady

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
    return [next(random_prompts(length)) for length in LENGTHS]


@pytest.fixture(scope="session")
def readings(loaded: Loaded) -> Readings:
    return functools.cache(lambda name, dtype: [read_steadily(loaded(name, dtype), length) for length in LENGTHS])


def random_prompts(length: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(3)
    while True:
        yield torch.randint(VOCAB, (length,), generator=generator)


def read_steadily(model: PreTrainedModel, length: int) -> Reading:
    """What it makes of the first prompt for which its choice of experts hangs on no rounding."""
    for _, prompt in zip(range(30), random_prompts(length), strict=False):
        reading = original(model, prompt)
        if is_steady(model, functools.partial(model, reading.ids[None], use_cache=False)):
            return reading
    pytest.fail(f"{type(model).__name__}: 30 prompts of {length} tokens have ties of experts")
