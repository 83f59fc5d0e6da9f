"""Random checkpoints in the shapes of real models, for what does not depend on what the weights say.

python -m seqexport.runtimes.benchmarks.checkpoints mamba-130m FOLDER
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seqexport.plugins.errors import UserError
from seqexport.plugins.publish import claimed
from seqexport.runtimes.benchmarks.cli import run

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedModel

CAPACITY = 4096


def _mamba(hidden: int, layers: int) -> PreTrainedConfig:
    """As in the checkpoints of state-spaces, but for weights of 0.02: with transformers' own 0.1 float16 overflows."""
    from transformers import MambaConfig

    return MambaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        vocab_size=50280,
        rescale_prenorm_residual=False,
        initializer_range=0.02,
    )


def _mamba2_2_7b() -> PreTrainedConfig:
    """As state-spaces/mamba2-2.7b: 2.7 B parameters."""
    from transformers import Mamba2Config

    return Mamba2Config(
        hidden_size=2560,
        num_hidden_layers=64,
        num_heads=80,
        head_dim=64,
        n_groups=1,
        state_size=128,
        vocab_size=50288,
        tie_word_embeddings=True,
        rescale_prenorm_residual=False,
    )


def _nemotron_3_nano_4b() -> PreTrainedConfig:
    """As the config.json of nvidia/NVIDIA-Nemotron-3-Nano-4B-BF16: 3.97 B parameters, 21 Mamba-2 layers, 17 MLPs and 4
    attentions."""
    from transformers import NemotronHConfig

    kinds = {"M": "linear_attention", "-": "mlp", "*": "full_attention"}
    return NemotronHConfig(
        layers_block_type=[kinds[letter] for letter in "M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-"],
        hidden_size=3136,
        intermediate_size=12544,
        mamba_num_heads=96,
        mamba_head_dim=80,
        n_groups=8,
        ssm_state_size=128,
        chunk_size=256,
        num_attention_heads=40,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=131072,
        max_position_embeddings=CAPACITY,
    )


def _llama(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, **rest: Any) -> PreTrainedConfig:
    from transformers import LlamaConfig

    shape: dict[str, Any] = {"vocab_size": 32000, "tie_word_embeddings": True, **rest}
    return LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        max_position_embeddings=CAPACITY,
        **shape,
    )


def _llama_4b() -> PreTrainedConfig:
    """Of the width, vocabulary and, within 1 %, the parameters of _nemotron_3_nano_4b: 3.99 B."""
    return _llama(3136, 29, 32, 8, 8192, head_dim=128, vocab_size=131072, tie_word_embeddings=False)


SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "mamba-130m": lambda: _mamba(768, 24),
    "llama-130m": lambda: _llama(768, 12, 12, 12, 3072),
    "mamba-1.4b": lambda: _mamba(2048, 48),
    "llama-1.4b": lambda: _llama(2048, 24, 32, 8, 7168),
    "mamba2-2.7b": _mamba2_2_7b,
    "nemotron-3-nano-4b": _nemotron_3_nano_4b,
    "llama-4b": _llama_4b,
}


def random_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """Random float16 weights, on the GPU if there is one; the same for the same seed and kind of device."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(before)
    return model


def word_tokenizer(size: int) -> Tokenizer:
    """A word of its own for each of ``size`` tokens, with a space before it: as much text as a real one's."""
    from tokenizers import Tokenizer, decoders, models

    syllables = [consonant + vowel for consonant in "bdfghjklmnprstvwz" for vowel in "aeiou"]
    words = map("".join, itertools.product(syllables, repeat=3))
    vocabulary = {f"\u0120{word}": token for token, word in enumerate(itertools.islice(words, size))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=next(iter(vocabulary))))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def create(config: PreTrainedConfig, folder: Path, seed: int = 0) -> None:
    """Save a random model as a checkpoint."""
    model = random_model(config, seed)
    with claimed(folder) as claim, claim.folder(replaces=None, last="config.json") as unfinished:
        model.save_pretrained(unfinished)
        word_tokenizer(config.vocab_size).save(str(unfinished / "tokenizer.json"))


@click.command()
@click.argument("name", type=click.Choice(list(SHAPES)))
@click.argument("folder", type=click.Path(path_type=Path))
def main(name: str, folder: Path) -> None:
    from seqexport.runtimes.quiet import quiet

    if folder.exists():
        raise UserError(f"{folder} is there already")
    with quiet():
        create(SHAPES[name](), folder)


if __name__ == "__main__":
    run(main)
