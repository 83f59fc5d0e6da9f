"""Tiny random models, and opened bundles that describe them without an exported graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import (
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)

from seqexport.exporter.causal_lm import discover_states
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.manifest import FORMAT_VERSION, Family, LanguageModel, Logits, Manifest, Source

torch.set_num_threads(1)  # tiny tensors: a second thread only waits
VOCAB = 61
SCAN = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 3, "state_size": 5, "conv_kernel": 4}
ATTENTION = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
HEADS = {"num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 4, "time_step_limit": (0.4, 0.9)}
NAMES = ("mamba", "falcon_mamba", "mamba2", "llama", "gemma2")


def make(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A model of an architecture; every parameter is random, norms and biases too."""
    torch.manual_seed(0)
    config, kind = {
        "mamba": (MambaConfig(**SCAN | changes), MambaForCausalLM),
        "falcon_mamba": (FalconMambaConfig(**SCAN | changes), FalconMambaForCausalLM),
        "mamba2": (Mamba2Config(**SCAN | HEADS | changes), Mamba2ForCausalLM),
        "llama": (LlamaConfig(**ATTENTION | changes), LlamaForCausalLM),
        "gemma2": (Gemma2Config(**ATTENTION | {"sliding_window": 5} | changes), Gemma2ForCausalLM),
    }[name]
    model: PreTrainedModel = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def bundle_of(model: PreTrainedModel, *, logits: Logits = "last", capacity: int = 64) -> Bundle:
    states = tuple(discover_states(model))
    growing = any(spec.grows for spec in states)
    family: Family = "transformer" if growing else "mamba"
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        architecture=model.config.model_type,
        family=family,
        dtype=msgspec.convert(str(model.dtype).removeprefix("torch."), str),  # type: ignore[arg-type]
        language_model=LanguageModel(vocab_size=model.config.vocab_size, eos_token_ids=(0,), logits=logits),
        target="portable",
        opset=20,
        capacity=capacity if growing else None,
        inputs=(),
        outputs=(),
        states=states,
        caches_in_place=False,
        ops={},
        source=Source(model.config.model_type, model.num_parameters(), "0.1.0", "2", "5", "2026-01-01"),
        files={},
    )
    return Bundle(Path(f"{model.config.model_type}-tiny"), manifest)
