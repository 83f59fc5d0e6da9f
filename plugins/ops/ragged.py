"""Ragged batches: sequences are right-padded, and ``seq_lens`` says how many tokens of each are valid."""

from __future__ import annotations

import torch
from torch import Tensor

TOKEN_MASK = [
    "valid = Cast <to = 7> (seq_lens)",
    "mask_axes = Constant <value_ints = [1, 2]> ()",
    "valid_cube = Unsqueeze (valid, mask_axes)",
    "mask_axis = Constant <value_ints = [1]> ()",
    "time_rows = Unsqueeze (times, mask_axis)",
    "mask = Less (time_rows, valid_cube)",
]
"""Body lines: int64 ``times`` [L] and ``seq_lens`` [B] give int64 ``valid`` [B] and bool ``mask`` [B,L,1]."""


def token_mask(seq_lens: Tensor, length: int) -> Tensor:
    """bool[B,length], true where a token is valid."""
    return torch.arange(length, device=seq_lens.device) < seq_lens[:, None]


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """float32, or float64 for float64 inputs."""
    return torch.promote_types(x.dtype, torch.float32)
