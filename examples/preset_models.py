"""The preset models: their shapes, their tokenizer, and how well they know a text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from preset_scan import llama_logits, mamba_logits
from preset_ssd import granite_logits, mamba2_logits
from torch import Tensor

VOCABULARY = 256
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 128, "num_hidden_layers": 4, "tie_word_embeddings": True}


HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192}


def new_mamba() -> torch.nn.Module:
    """Mamba-1."""
    return rescaled_once(transformers.MambaForCausalLM, transformers.MambaConfig(
        **SHAPE, **SPECIAL, state_size=16, expand=2, conv_kernel=4, rescale_prenorm_residual=True
    ))  # fmt: skip


def new_mamba2() -> torch.nn.Module:
    """Mamba-2: 8 heads of 32 channels."""
    return rescaled_once(transformers.Mamba2ForCausalLM, transformers.Mamba2Config(
        **SHAPE, **SPECIAL, num_heads=8, head_dim=32, state_size=64, n_groups=1, expand=2, conv_kernel=4,
        chunk_size=64, rescale_prenorm_residual=True,
    ))  # fmt: skip


def rescaled_once(kind: type[torch.nn.Module], config: transformers.PreTrainedConfig) -> torch.nn.Module:
    """A model rescaled once and for all: transformers 5 would rescale again whenever it loads the checkpoint."""
    model = kind(config)
    model.config.rescale_prenorm_residual = False
    return model


def new_transformer() -> torch.nn.Module:
    """Llama."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, **SPECIAL, **HEADS, intermediate_size=176))


def new_hybrid() -> torch.nn.Module:
    """As Granite 4 H: Mamba-2 layers and one of attention that is told no positions, each with an MLP."""
    model = transformers.GraniteMoeHybridForCausalLM(transformers.GraniteMoeHybridConfig(
        **SHAPE, **SPECIAL, **HEADS, layer_types=["linear_attention"] * 2 + ["full_attention", "linear_attention"],
        mamba_n_heads=8, mamba_d_head=32, mamba_d_state=32, mamba_n_groups=1, mamba_expand=2, mamba_d_conv=4,
        mamba_chunk_size=64, num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=96,
        intermediate_size=96, embedding_multiplier=12.0, attention_multiplier=32**-0.5,
    ))  # fmt: skip
    for layer in model.model.layers:
        if layer.mamba:  # Granite's own start gives every head the same short memory; this is Mamba-2's
            step = torch.empty_like(layer.mamba.dt_bias.data).uniform_(math.log(0.001), math.log(0.1)).exp()
            layer.mamba.dt_bias.data = step + torch.log(-torch.expm1(-step))
    return model


Logits = Callable[[torch.nn.Module, Tensor], Tensor]
ARCHITECTURES: dict[str, tuple[Callable[[], torch.nn.Module], Logits]] = {
    "mamba": (new_mamba, mamba_logits),
    "mamba2": (new_mamba2, mamba2_logits),
    "transformer": (new_transformer, llama_logits),
    "hybrid": (new_hybrid, granite_logits),
}
"""What makes a fresh model, and what computes its logits fast and differentiably."""


def new_model(arch: str, seed: int) -> torch.nn.Module:
    """A fresh model of about half a million parameters."""
    torch.manual_seed(seed)
    return ARCHITECTURES[arch][0]()


def logits_of(arch: str) -> Logits:
    """The function that computes a model's logits fast and differentiably."""
    return ARCHITECTURES[arch][1]


def byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in a byte-level tokenizer (GPT-2's table), with the byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def save_tokenizer(folder: Path) -> None:
    """A tokenizer whose ids are the bytes of the text.

    The special token is the letter of byte 0. A text may hold that letter itself, so tokenizer.json does not
    list it as special, and `split_special_tokens` keeps transformers from looking for it in texts.
    """
    letters = byte_letters()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    zero = next(letter for letter, byte in letters.items() if byte == 0)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": zero,
        "eos_token": zero,
        "pad_token": zero,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def bits_per_byte(model: torch.nn.Module, arch: str, text: bytes, context: int) -> float:
    """Bits per byte of `text`, cut into windows of `context` bytes; byte 0 stands before each window."""
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().to(model.device)
    nats = 0.0
    for window in data.split(context):
        padding = -len(window) % 16  # the fast scan wants whole chunks; what follows changes nothing before
        ids = F.pad(window, (1, padding))
        logits = logits_of(arch)(model, ids[None, :-1])[0, : len(window)].float()
        nats += F.cross_entropy(logits, window, reduction="sum").item()
    return nats / len(data) / math.log(2)


@torch.no_grad()
def difference_from_transformers(model: torch.nn.Module, arch: str, text: bytes) -> float:
    """The largest difference of a logit between the fast forward pass and transformers' own."""
    ids = torch.tensor([list(text[:192])], device=model.device)
    return (model(ids).logits - logits_of(arch)(model, ids)).abs().max().item()
