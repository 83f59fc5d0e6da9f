"""Which model to export, what it is, and whether it can be."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import FunctionType

from torch import nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from seqexport.exporter.explain import part_name
from seqexport.exporter.patches import missing_ops
from seqexport.exporter.patches.experts import check_experts
from seqexport.exporter.patches.rotary import switch_length, switching
from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import MOST_TOKENS, Family, StateSpec

CAPACITY_WITHOUT_LIMIT = 4096
"""Default size of a cache whose model states no limit."""

POSITION_TABLES = {"wpe", "embed_positions", "position_embeddings", "position_embedding"}


def family_of(specs: Sequence[StateSpec]) -> Family:
    """What the layers keep: states of fixed size (mamba), caches that grow (transformer), or both."""
    kinds = {spec.grows for spec in specs}
    if kinds == {True}:
        return "transformer"
    return "mamba" if kinds == {False} else "hybrid"


def check_arch(arch: str | None, specs: Sequence[StateSpec], config: PreTrainedConfig) -> None:
    """Refuse a model that is not of the family that was asked for: ``mamba2`` is ``mamba`` with states of heads.

    Raises:
        UserError: it is of another family.
    """
    family = family_of(specs)
    has_heads = {len(spec.shape) for spec in specs if spec.kind == "recurrent_state"} == {4}
    if arch is not None and arch != family and not (arch == "mamba2" and family == "mamba" and has_heads):
        name = (config.architectures or [config.model_type])[0]
        raise UserError(
            f"`arch={arch}`, but {config.name_or_path or 'the model'} is a {name} ({family}); "
            f"drop `arch` or pass a {arch.capitalize()} checkpoint"
        )


def refuse_unsupported(model: PreTrainedModel) -> None:
    """Refuse what is known from the model's classes not to be exportable; tracing may still refuse others.

    Raises:
        UserError: naming the model's class and the reason.
    """
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise UserError(f"{name} is an encoder-decoder; expected a causal language model")
    if model.get_output_embeddings() is None:
        raise UserError(f"{name} has no output embeddings; expected a causal language model")
    for path, module in model.named_modules():
        where = part_name(path, module)
        if type(module).__name__.endswith("Experts"):
            _refuse_experts(name, where, module)
        missing = _called_names(type(module)) & missing_ops().keys()
        if missing:
            op = missing_ops()[min(missing)]
            raise UserError(f"{name} needs the op {op}, which this version does not have, in {where}")
        if _is_own_attention(module):
            raise UserError(
                f"{name} computes attention itself in {where}, not through transformers' attention interface; only "
                "causal attention through it is supported"
            )


def _refuse_experts(name: str, where: str, module: nn.Module) -> None:
    try:
        check_experts(module)
    except UserError as why:
        raise UserError(f"{name}: the experts of {where} {why}; such a mixture of experts is not supported") from None


def _called_names(kind: type[nn.Module]) -> set[str]:
    functions = [inspect.unwrap(f) for f in vars(kind).values() if isinstance(f, FunctionType)]
    return {name for function in functions for name in function.__code__.co_names}


def _is_own_attention(module: nn.Module) -> bool:
    """Whether it is an attention, by name and projections, that never asks for the attention interface."""
    kind = type(module)
    if not kind.__name__.endswith("Attention") or not any(isinstance(m, nn.Linear) for m in module.children()):
        return False
    return not any("ALL_ATTENTION_FUNCTIONS" in _called_names(base) for base in kind.__mro__)


def eos_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """The tokens of the vocabulary that end a text: the generation config's, else the config's.

    Raises:
        UserError: they are no numbers.
    """
    generation = getattr(model, "generation_config", None)
    config = model.config.get_text_config()
    ids = getattr(generation, "eos_token_id", None)
    ids = config.eos_token_id if ids is None else ids
    ids = [] if ids is None else [ids] if isinstance(ids, int) else ids
    if not isinstance(ids, (list, tuple)) or not all(isinstance(i, int) for i in ids):
        raise UserError(f"{type(model).__name__} ends texts with {ids!r}; expected tokens (eos_token_id)")
    return tuple(int(i) for i in ids if 0 <= i < config.vocab_size)


def default_capacity(model: PreTrainedModel) -> int:
    """The capacity unless told otherwise: as many tokens as the model was made for and can be given."""
    wanted, limit = stated_capacity(model) or CAPACITY_WITHOUT_LIMIT, position_limit(model)
    return wanted if limit is None else min(wanted, limit[0])


def stated_capacity(model: PreTrainedModel) -> int | None:
    """The tokens that the model was made for, by its config."""
    config = model.config.get_text_config()
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((int(size) for size in named if size), None)


def position_limit(model: PreTrainedModel) -> tuple[int, str] | None:
    """The most tokens of a sequence that can be told their position, and why; None without a limit."""
    limits = [(switch_length(m), "changes its rotary frequencies after") for m in switching(model)]
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] in POSITION_TABLES:
            offset = int(getattr(module, "offset", 0))
            limits.append((module.num_embeddings - offset, "has learned positions for"))
    return min(limits, default=None)


def windows(model: PreTrainedModel) -> tuple[int, ...]:
    """Tokens that layers with a sliding window see: the sizes that transformers' own cache gives them, ascending."""
    layers = DynamicCache(config=model.config).layers
    return tuple(sorted({int(size) for layer in layers if (size := getattr(layer, "sliding_window", None))}))


def check_capacity(capacity: int, model: PreTrainedModel) -> None:
    """Refuse a cache that is empty, or longer than the model can tell its tokens' positions.

    Raises:
        UserError: naming the limit.
    """
    if capacity < 1:
        raise UserError(f"`max_len` {capacity}: expected at least 1")
    if capacity > MOST_TOKENS:
        raise UserError(f"`max_len` {capacity}: expected at most {MOST_TOKENS}")
    limit = position_limit(model)
    if limit is not None and capacity > limit[0]:
        tokens, reason = limit
        raise UserError(f"`max_len` {capacity}: {type(model).__name__} {reason} {tokens} tokens; give at most {tokens}")
