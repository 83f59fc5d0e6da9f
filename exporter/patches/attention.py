"""transformers' attention and mask interfaces become CausalAttention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from seqexport.exporter.patches.registry import register
from seqexport.exporter.states import GraphStates
from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import Axis

NAME = "seqexport"
HARMLESS = {"position_ids", "position_embeddings", "past_key_values", "cache_position", "target_dtype"}


@dataclass(frozen=True)
class CausalMask:
    """What our mask interface gives the layers in place of a tensor: a causal mask, windowed or not.

    Attributes:
        known: whether CausalAttention can apply it. A model may ask for masks that no layer of its takes.

    Raises:
        UserError: a layer wants to compute with it.
    """

    window: int = 0
    known: bool = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UserError("its layers compute with the attention mask; only causal attention is supported")

    def __getitem__(self, index: Any) -> Any:
        return self.masked


@contextmanager
def causal_attention(model: nn.Module, states: GraphStates) -> Iterator[None]:
    if not states.cached:
        yield
        return
    configs = {id(each.config): each.config for each in model.modules() if isinstance(each, PreTrainedModel)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    AttentionInterface.register(NAME, _attention(states))
    AttentionMaskInterface.register(NAME, _mask)
    try:
        for config, _ in before:
            config._attn_implementation = NAME
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
        del AttentionInterface._global_mapping[NAME], AttentionMaskInterface._global_mapping[NAME]


register("attention", causal_attention)


def _mask(*args: Any, mask_function: Callable[..., Any], local_size: int | None = None, **kwargs: Any) -> CausalMask:
    """A marker for the mask that transformers asks for: known if it is causal, or causal with a sliding window."""
    mask = CausalMask(local_size or 0)
    with _disable_current_modes():  # the mask of real positions, also while shapes alone are traced
        position, keys = torch.tensor(4 * mask.window + 5), torch.arange(4 * mask.window + 8)
        wanted = (keys <= position) & ((mask.window == 0) | (keys > position - mask.window))
        try:
            same = torch.equal(torch.as_tensor(mask_function(0, 0, position, keys)).expand_as(wanted), wanted)
        except Exception:  # it reads tensors of the call
            same = False
    return replace(mask, known=same)


def _attention(states: GraphStates) -> Callable[..., tuple[Tensor, None]]:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: CausalMask | None,
        scaling: float | None = None,
        softcap: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """query [B,Hq,L,Dh], key and value [B,Hkv,L,D], as transformers lays them out."""
        layer = _check(module, states, attention_mask, kwargs)
        window = attention_mask.window if attention_mask else 0
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        shape: tuple[Axis, ...] = ("batch", key.shape[1], "max_len")
        y, present_key, present_value = torch.ops.seqexport.causal_attention(
            q,
            k,
            v,
            states.past(layer, "key", (*shape, key.shape[3]), k, k.dtype),
            states.past(layer, "value", (*shape, value.shape[3]), v, v.dtype),
            states.past_lens,
            states.seq_lens,
            query.shape[-1] ** -0.5 if scaling is None else float(scaling),
            window,
            float(softcap or 0.0),
        )
        states.store(layer, "key", present_key)
        states.store(layer, "value", present_value)
        return y, None

    return attention


def _check(module: nn.Module, states: GraphStates, mask: Any, kwargs: dict[str, Any]) -> int:
    """The layer that the keys belong to, if what it asks for is what CausalAttention computes."""
    kind, layer = type(module).__name__, states.take_new_keys()
    if layer is None:
        raise UserError(f"{kind} attends to keys that are not its own cache's; this is not supported")
    if isinstance(mask, CausalMask) and not mask.known:
        raise UserError(f"{kind} masks attention in a way that is neither causal nor a causal sliding window")
    if not getattr(module, "is_causal", True) or not isinstance(mask, CausalMask | None):
        raise UserError(f"{kind} builds an attention mask of its own; only causal attention is supported")
    extra = [name for name, x in kwargs.items() if isinstance(x, Tensor) and name not in HARMLESS]
    if extra:
        raise UserError(f"{kind} passes {extra[0]!r} to its attention, which CausalAttention does not know")
    return layer
