"""Where a model calls a kernel, our op is put instead. Each hook is a context manager that restores the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from transformers import PreTrainedModel

from seqexport.exporter.patches import attention, causal_conv1d, last_logits, rotary, selective_scan
from seqexport.exporter.states import GraphStates


@contextmanager
def hooked(model: PreTrainedModel, states: GraphStates, *, last_only: bool) -> Iterator[None]:
    """Run ``model`` on our ops and ``states``; with ``last_only``, logits of each sequence's last valid token alone."""
    with ExitStack() as stack:
        for hook in (attention.hook, causal_conv1d.hook, selective_scan.hook, rotary.hook):
            stack.enter_context(hook(model, states))
        if last_only:
            stack.enter_context(last_logits.hook(model, states))
        yield
