"""Keeps the hidden state of each row's last valid token alone, just before the output projection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqexport.exporter.states import GraphStates


@contextmanager
def hook(model: PreTrainedModel, states: GraphStates) -> Iterator[None]:
    def keep_last(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = args  # [B,L,H]
        last = (states.seq_lens.long() - 1).clamp(min=0)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return hidden[rows, last].unsqueeze(1), *rest

    handle = model.get_output_embeddings().register_forward_pre_hook(keep_last)
    try:
        yield
    finally:
        handle.remove()
