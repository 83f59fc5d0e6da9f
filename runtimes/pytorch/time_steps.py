"""Mamba-2's ``time_step_limit`` in every call, as in training.

transformers keeps the time steps of prompts within the limit and forgets it for single tokens, so that a sequence fed
token by token is another than the same fed at once (5.17 to 5.23). What a model was trained with, and what runs without
a cache, is the limit everywhere: here, and in what is exported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seqexport.plugins.errors import UserError
from seqexport.runtimes.pytorch.attributes import Function, called_function

NO_LIMIT = (0.0, math.inf)
UPDATE = "mamba2_selective_state_update"
"""The function by which every Mamba-2 family takes a single token."""


def limited_time_steps(model: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """What lets single tokens obey the limit of the model's layers, inside the block; nothing where they have none.

    Raises:
        UserError: its layers have different limits.
    """
    stated = (getattr(module, "time_step_limit", None) for module in model.modules())
    limits = {(float(limit[0]), float(limit[1])) for limit in stated if limit is not None}
    if len(limits) > 1:
        raise UserError(f"{type(model).__name__} limits its layers' time steps differently: {sorted(limits)}")
    if limits <= {NO_LIMIT}:
        return nullcontext
    return partial(called_function, model, UPDATE, _limited(*limits.pop()))


def _limited(low: float, high: float) -> Callable[[Function], Function]:
    def replacement(update: Function) -> Function:
        def limited(
            state: Tensor,
            hidden_states: Tensor,
            dt: Tensor,
            *args: Any,
            dt_bias: Tensor,
            dt_softplus: bool = False,
            **kwargs: Any,
        ) -> Tensor:
            """dt [B,H,P] and dt_bias [H,P] are the same for all P channels of a head, and stay so to the eye."""
            step = dt[..., :1] + dt_bias[..., :1].to(dt.dtype)
            step = nn.functional.softplus(step) if dt_softplus else step
            step = torch.clamp(step, low, high).expand_as(dt)
            zero = torch.zeros_like(dt_bias[..., :1]).expand_as(dt_bias)
            updated: Tensor = update(state, hidden_states, step, *args, dt_bias=zero, dt_softplus=False, **kwargs)
            return updated

        return limited

    return replacement
