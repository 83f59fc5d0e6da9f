"""The outputs of a module: by name, and as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqexport.plugins.errors import UserError


def named_outputs(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of what a module returns, by name.

    By the keys of a dictionary, the fields of a dataclass or named tuple, ``output_0``, ``output_1``, ... in a tuple,
    ``output`` for a single tensor; members of members have their names joined by a dot, and None is left out.

    Raises:
        UserError: it holds something else.
    """
    if isinstance(value, Tensor):
        yield name or "output", value
    elif isinstance(value, Mapping):
        yield from _members(value.items(), name)
    elif is_dataclass(value):
        yield from _members([(field.name, getattr(value, field.name)) for field in fields(value)], name)
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        yield from _members(value._asdict().items(), name)
    elif isinstance(value, (tuple, list)):
        yield from _members([(str(i) if name else f"output_{i}", each) for i, each in enumerate(value)], name)
    elif value is not None:
        raise UserError(f"it returns a {type(value).__name__}{f' as {name}' if name else ''}; expected tensors")


def _members(members: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in members:
        yield from named_outputs(value, f"{name}.{key}" if name else str(key))


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """A CPU array; bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.detach().cpu()
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())
