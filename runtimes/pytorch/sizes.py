"""What a checkpoint's config asks for, held against what its weights hold before anything of that size is made."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import MOST_TOKENS
from seqexport.runtimes.pytorch.files import CONFIG, COPY_AGAIN

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

COUNTS = re.compile(r"(n|num|max)_(\w+_)?(layers?|blocks?|experts)|depth")
"""Names of what a module is made for each of."""

SIZES = re.compile(r"(\w+_)?(size|sizes|dim|dims|heads|embeddings|positions|window|kernel|groups|len|length)")
MOST_PARTS = 1 << 14
SAME_CHECKPOINT = "take both from the same checkpoint"
FLOATS = ("F64", "F32", "F16", "BF16")
ROOM = 1 << 26
"""Parameters that a model may have more than its files: a misfit of less is told by the tensor's name."""


@dataclass(frozen=True)
class Held:
    """What safetensors files hold: how many tensors, their elements, and the types of those that are no floats."""

    tensors: int
    elements: int
    others: dict[str, str]


def held(files: Sequence[Path]) -> Held:
    """What files that are whole hold; no tensor is read."""
    from safetensors import safe_open

    tensors, elements, others = 0, 0, dict[str, str]()
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                part = opened.get_slice(name)
                tensors, elements = tensors + 1, elements + math.prod(part.get_shape())
                if part.get_dtype() not in FLOATS:
                    others[name] = part.get_dtype()
    return Held(tensors, elements, others)


def check_counts(source: str, data: dict[str, Any], most: int = MOST_PARTS) -> None:
    """Refuse a config that asks for more layers, experts or tokens than any model has.

    Args:
        source: for messages.
        data: of ``config.json``.
        most: layers and the like.

    Raises:
        UserError: naming the entry.
    """
    for name, value in _entries(data):
        limit = most if COUNTS.fullmatch(name) else MOST_TOKENS if SIZES.fullmatch(name) else None
        if limit is not None and isinstance(value, (int, float)) and not abs(value) <= limit:
            raise UserError(f"{source}: {CONFIG} has {name} {value}; expected at most {limit:,}; {COPY_AGAIN}")
        if name == "sliding_window" and not (value is None or (isinstance(value, int) and value >= 0)):
            raise UserError(f"{source}: {CONFIG} has {name} {value!r}; expected a number of tokens; {COPY_AGAIN}")


def check_fits(source: str, load: Any, config: PreTrainedConfig, weights: Held, **options: Any) -> None:
    """Refuse a config that asks for far more than the weights hold: loading would make all of it.

    Raises:
        UserError: naming what it asks for.
    """
    import torch

    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > weights.tensors:
        raise UserError(
            f"{source}: {CONFIG} asks for {layers:,} layers, and the weights hold {weights.tensors:,} tensors; "
            f"{SAME_CHECKPOINT}"
        )
    try:
        with torch.device("meta"):
            model = load.from_config(copy.deepcopy(config), **options)
    except Exception:  # which loading says in its own words
        return
    asked = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if asked > 2 * weights.elements + ROOM:
        raise UserError(
            f"{source}: {CONFIG} asks for {asked:,} parameters, and the weights hold {weights.elements:,}; "
            f"{SAME_CHECKPOINT}"
        )


def check_types(source: str, model: nn.Module, weights: Held) -> None:
    """Raises UserError: a parameter of the model is stored as something else than floats."""
    names = [f".{name}" for name, _ in model.named_parameters(remove_duplicate=False)] if weights.others else []
    for stored, dtype in sorted(weights.others.items()):
        if any(name.endswith(f".{stored}") or f".{stored}".endswith(name) for name in names):
            raise UserError(f"{source}: {stored} is {dtype}; expected floating-point weights: use the original")


def _entries(data: Any) -> Iterator[tuple[str, Any]]:
    """Each entry of an object, and of those inside it, however deep."""
    pending = [data]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value.items()
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
