"""From the layouts of mamba_ssm to those of our ops."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

import seqexport.plugins.ops  # noqa: F401  (registers them)
from seqexport.plugins.errors import UserError

FLOAT32 = torch.float32


def common_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The one in which a call of an op can have all of the tensors."""
    return reduce(torch.promote_types, [x.dtype for x in tensors if x is not None])


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of states and sums: float32, or float64 for float64."""
    return torch.promote_types(dtype, FLOAT32)


def to(tensor: Tensor | None, dtype: torch.dtype) -> Any:
    return None if tensor is None else tensor.to(dtype)


def refuse_complex(function: str, A: Tensor) -> None:
    """Raises UserError: the rates of decay are complex."""
    if A.is_complex():
        kind = str(A.dtype).removeprefix("torch.")
        raise UserError(
            f"{function}: A is {kind}; our scans have real A alone, as Mamba has: export a model with real A"
        )


def refuse_given(function: str, **options: Any) -> None:
    """Raises UserError: an option that our op does not have is given."""
    for name, value in options.items():
        if value is not None:
            raise UserError(f"{function}: `{name}` is given, which our op does not have; call it without")


def activation_of(function: str, activation: str | None) -> str:
    """The attribute of CausalConv1d.

    Raises:
        UserError: it has no such activation.
    """
    if activation not in (None, "silu", "swish"):
        raise UserError(f"{function}: activation {activation!r}; CausalConv1d has none and silu")
    return "none" if activation is None else "silu"
