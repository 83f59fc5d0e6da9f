"""The functions of mamba_ssm, causal_conv1d and VMamba's scans become our ops, in modules that keep no cache."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn

from seqexport.exporter.patches.registry import register
from seqexport.exporter.standins.packages import installed_replaced
from seqexport.exporter.states import GraphStates


def stateless(model: nn.Module, states: GraphStates) -> AbstractContextManager[None]:
    return nullcontext() if states.cached else installed_replaced()


register("mamba_ssm", stateless)
