"""The two preset models: their shapes, their tokenizer, and how well they know a text."""

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
from torch import Tensor

VOCABULARY = 256
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 128, "num_hidden_layers": 4, "tie_word_embeddings": True}


def new_model(arch: str, seed: int) -> torch.nn.Module:
    """A fresh model of about half a million parameters."""
    torch.manual_seed(seed)
    if arch == "mamba":
        config = transformers.MambaConfig(
            **SHAPE, **SPECIAL, state_size=16, expand=2, conv_kernel=4, rescale_prenorm_residual=True
        )
        model = transformers.MambaForCausalLM(config)
        # done once and for all: transformers 5 would rescale again whenever it loads the checkpoint
        model.config.rescale_prenorm_residual = False
        return model
    config = transformers.LlamaConfig(
        **SHAPE, **SPECIAL, intermediate_size=176, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=8192,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def logits_of(arch: str) -> Callable[[torch.nn.Module, Tensor], Tensor]:
    """The function that computes a model's logits fast and differentiably."""
    return mamba_logits if arch == "mamba" else llama_logits


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
