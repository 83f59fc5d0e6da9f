"""transformers' experts interface becomes Experts; the router before it is traced as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers.integrations.moe import ExpertsInterface

from seqexport.exporter.patches.registry import register
from seqexport.exporter.states import GraphStates
from seqexport.plugins.errors import UserError
from seqexport.plugins.ops.experts import ACTIVATIONS
from seqexport.runtimes.pytorch.experts import experts_implementation, goes_through_interface

NAME = "seqexport"
MOST = {"experts": 1024, "experts a token": 256}
"""What the kernels take on every device."""

FLOATS = {torch.float32, torch.float16, torch.bfloat16}
LAYOUT = (
    ("_is_expert_parallel", False, "are spread over devices"),
    ("is_concatenated", True, "interleave gate and up"),
    ("is_transposed", False, "keep their weights transposed"),
    ("has_post_expert_norm", False, "have a norm each"),
)
"""What transformers may say of experts, the value that Experts computes, and what the other means."""


@contextmanager
def experts(model: nn.Module, states: GraphStates) -> Iterator[None]:
    ExpertsInterface.register(NAME, _experts)
    try:
        with experts_implementation(model, NAME):
            yield
    finally:
        del ExpertsInterface._global_mapping[NAME]


register("experts", experts)


def _experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """hidden_states [tokens,D], top_k_index and top_k_weights [tokens,k]: one row of the op's batch."""
    first = "gate_up_proj" if module.has_gate else "up_proj"
    _check_counts(module.down_proj.shape[0], top_k_index.shape[-1])
    y: Tensor = torch.ops.seqexport.experts(
        hidden_states[None],
        top_k_index[None].int(),
        top_k_weights[None].float(),
        getattr(module, first),
        module.down_proj,
        getattr(module, f"{first}_bias") if module.has_bias else None,
        module.down_proj_bias if module.has_bias else None,
        int(module.has_gate),
        _activation(module),
    )[0]
    return y.squeeze(0)


def _check_counts(experts: int, chosen: int) -> None:
    for (what, most), count in zip(MOST.items(), (experts, chosen), strict=True):
        if count > most:
            raise UserError(f"it has {count} {what}; Experts takes at most {most}")


def check_experts(module: Any) -> None:
    """Refuse experts that the op does not compute.

    Raises:
        UserError: what they do otherwise; the sentence's subject is theirs to whom it is told.
    """
    if not goes_through_interface(module):
        raise UserError("do not go through transformers' experts interface")
    for name, expected, otherwise in LAYOUT:
        if getattr(module, name, expected) is not expected:
            raise UserError(otherwise)
    if type(module)._apply_gate.__module__ != ExpertsInterface.__module__:
        raise UserError("have a gate of their own")
    if unknown := {parameter.dtype for parameter in module.parameters()} - FLOATS:
        raise UserError(f"are quantised ({min(map(str, unknown))})")
    _activation(module)


def _activation(module: Any) -> str:
    """The op's word for what the experts' activation computes.

    Raises:
        UserError: it computes something else.
    """
    with _disable_current_modes():  # real values, also while shapes alone are traced
        x = torch.linspace(-6, 6, 49)
        for name, known in ACTIVATIONS.items():
            if torch.allclose(module.act_fn(x), known(x), rtol=1e-6, atol=1e-7):
                return name
    kind = getattr(module.act_fn, "__name__", type(module.act_fn).__name__)
    raise UserError(f"have the activation {kind}, and the op has {', '.join(ACTIVATIONS)}")
