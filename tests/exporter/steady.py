"""Whether a mixture chooses the same experts whatever is rounded: near a tie, two right runs in 16 bits part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from seqexport.runtimes.pytorch.experts import experts_implementation, goes_through_interface

RUNS = 8
NOISE = 2.0**-10
"""What each weight is changed by, relative to it: about four times what a run in float16 rounds away."""


def is_steady(model: PreTrainedModel, read: Callable[[], object]) -> bool:
    """Whether each token goes to the same experts in runs whose weights differ a little; without experts it is so.

    Args:
        read: runs the model over some text.
    """
    if not any(goes_through_interface(module) for module in model.modules()):
        return True
    own = _chosen(model, read)
    for run in range(RUNS):
        with _shaken(model, torch.Generator().manual_seed(run)):
            if any(not torch.equal(a, b) for a, b in zip(own, _chosen(model, read), strict=True)):
                return False
    return True


def _chosen(model: PreTrainedModel, read: Callable[[], object]) -> list[Tensor]:
    """The experts of each token, sorted, layer by layer."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[1].sort(-1).values))
        for module in model.modules()
        if goes_through_interface(module)
    ]
    with torch.no_grad(), experts_implementation(model, "eager"):
        read()
    for hook in hooks:
        hook.remove()
    assert found
    return found


@contextmanager
def _shaken(model: PreTrainedModel, generator: torch.Generator) -> Iterator[None]:
    before = [weight.detach().clone() for weight in model.parameters()]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + NOISE * torch.randn(weight.shape, generator=generator).to(weight.dtype))
    yield
    with torch.no_grad():
        for weight, was in zip(model.parameters(), before, strict=True):
            weight.copy_(was)
