"""The language model inside a model that reads images or sound too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqexport.plugins.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def is_wrapper(config: PreTrainedConfig) -> bool:
    """Whether the configuration is of such a model: it holds that of its text part."""
    return config.get_text_config(decoder=True) is not config


def auto_class(source: str, config: PreTrainedConfig) -> Any:
    """What loads the weights: of such a model the whole, if transformers has a causal language model for its text part.

    Raises:
        UserError: transformers has none, or the model is of another kind; naming what it is.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING as CAUSAL
    from transformers import MODEL_FOR_MULTIMODAL_LM_MAPPING as MULTIMODAL
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    text, kind = config.get_text_config(decoder=True), type(config)
    if kind not in CAUSAL and kind not in MULTIMODAL:
        raise UserError(f"{source} is a {kind_of(config)!r} model; expected a causal language model")
    if text is config or kind not in MULTIMODAL:
        return AutoModelForCausalLM
    if type(text) not in CAUSAL:
        raise UserError(
            f"{source} is a {kind_of(config)}, of more than text, and transformers has no causal language model "
            f"for its text part ({text.model_type}); expected a causal language model"
        )
    causal, whole = (mapping.get(kind, None) for mapping in (CAUSAL, MULTIMODAL))
    own = causal is not whole and getattr(causal, "__name__", None) == kind_of(config)
    return AutoModelForCausalLM if own else AutoModelForMultimodalLM


def kind_of(config: PreTrainedConfig) -> str:
    """The model's class as the checkpoint names it, else its type."""
    return (config.architectures or [config.model_type])[0]


def language_model(source: str, whole: PreTrainedModel) -> PreTrainedModel:
    """The causal language model made of the text part of ``whole`` and its head, which it shares; no weight is copied.

    Raises:
        UserError: transformers' causal language model of that type is made of something else.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    decoder, head = whole.get_decoder(), whole.get_output_embeddings()
    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(decoder.config)]
    with torch.device("meta"):
        model: PreTrainedModel = causal(decoder.config)
    prefix = model.base_model_prefix
    if type(getattr(model, prefix, None)) is not type(decoder) or head is None:
        raise UserError(
            f"{source} is a {type(whole).__name__}, and its text part ({type(decoder).__name__}) is not that of "
            f"transformers' {type(model).__name__}; expected a causal language model"
        )
    setattr(model, prefix, decoder)
    model.set_output_embeddings(head)
    model.generation_config = whole.generation_config
    model.config.architectures = [type(model).__name__]
    model.config.name_or_path = whole.config.name_or_path
    return model
