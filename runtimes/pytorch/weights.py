"""Weights that are not finite: in the checkpoint itself, or because the dtype that they are loaded in ends too early.

Only parameters are looked at: a buffer may hold infinities by design, as a mask does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from seqexport.plugins.errors import UserError
from seqexport.runtimes.finite import ADVICE, not_finite


@dataclass(frozen=True)
class Bad:
    """A parameter with values that are not finite.

    Attributes:
        name: the checkpoint's, where it could be found there.
        loaded: in the dtype asked for.
        stored: as the checkpoint holds it; None where it has another name there.
    """

    name: str
    loaded: Tensor
    stored: Tensor | None


def check_finite(source: str, files: Sequence[Path], model: nn.Module, clamped: list[str] | None) -> None:
    """Refuse weights that are not finite; where ``clamped`` is a list, set those beyond the dtype to its limit instead.

    Args:
        source: for messages.
        files: the checkpoint's safetensors.
        model: its parameters are looked at, tied ones once, and changed in place where that is asked for.
        clamped: receives the names of the weights that were changed; None: nothing may be.

    Raises:
        UserError: naming the weight, its largest value, and what the dtype holds.
    """
    found = list(_bad(files, model))
    for bad in found:
        values = bad.loaded if bad.stored is None else bad.stored
        if values.isnan().any() or (bad.stored is not None and not values.isfinite().all()):
            told = not_finite(values.float().numpy())
            raise UserError(
                f"{source}: {bad.name} is not finite in the checkpoint itself: {told}; "
                "take an undamaged copy of the checkpoint"
            )
    if found and clamped is None:
        raise UserError(f"{source}: {_beyond(found)}")
    for bad in found:
        limits = torch.finfo(bad.loaded.dtype)
        bad.loaded.clamp_(limits.min, limits.max)
        clamped += [bad.name]  # type: ignore[operator]


def _bad(files: Sequence[Path], model: nn.Module) -> Iterator[Bad]:
    for name, parameter in model.named_parameters():
        loaded = parameter.detach()
        low, high = torch.aminmax(loaded) if loaded.numel() else (torch.zeros(()), torch.zeros(()))
        if not (low.isfinite() and high.isfinite()):
            tied = [other for other, p in model.named_parameters(remove_duplicate=False) if p is parameter]
            yield Bad(*_stored(files, [name, *tied], loaded))


def _stored(files: Sequence[Path], names: Sequence[str], loaded: Tensor) -> tuple[str, Tensor, Tensor | None]:
    """The tensor of a file that has one of the names, or one but for the base model's prefix, and the same shape."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                same = any(f".{key}".endswith(f".{name}") or f".{name}".endswith(f".{key}") for name in names)
                if same and list(opened.get_slice(key).get_shape()) == list(loaded.shape):
                    return key, loaded, opened.get_tensor(key)
    return names[0], loaded, None


def _beyond(found: Sequence[Bad]) -> str:
    bad, more = found[0], len(found) - 1
    dtype = str(bad.loaded.dtype).removeprefix("torch.")
    count = int((~bad.loaded.isfinite()).sum())
    what = f"{count:,} of {bad.loaded.numel():,} values"
    if bad.stored is not None:
        place = int(bad.stored.abs().argmax())
        index = [int(i) for i in np.unravel_index(place, bad.stored.shape)]
        what += f", the largest {bad.stored.flatten()[place]:.6g} at {index}"
    return (
        f"{bad.name} has {what}, beyond {dtype}, which ends at {torch.finfo(bad.loaded.dtype).max:.6g}"
        f"{f' (and {more} more)' if more else ''}; {ADVICE[dtype]}, "
        "or set such values to the dtype's limit with `clamp_weights=True`"
    )
