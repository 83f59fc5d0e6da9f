"""Keeps the hidden state of each sequence's last valid token alone, just before the output projection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from seqexport.exporter.states import GraphStates


@contextmanager
def hook(model: PreTrainedModel, states: GraphStates) -> Iterator[None]:
    def keep_last(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = args  # [B,L,H]
        last = (states.seq_lens.long() - 1).clamp(min=0)
        return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])), *rest

    handle = model.get_output_embeddings().register_forward_pre_hook(keep_last)
    try:
        yield
    finally:
        handle.remove()
