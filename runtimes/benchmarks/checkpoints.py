"""Random checkpoints in the shapes of real models, for what does not depend on what the weights say.

python -m seqexport.runtimes.benchmarks.checkpoints mamba-130m FOLDER
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seqexport.plugins.errors import UserError
from seqexport.plugins.files import whole_folder
from seqexport.runtimes.benchmarks.cli import run

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CAPACITY = 4096


def _mamba(hidden: int, layers: int) -> PreTrainedConfig:
    """As in the checkpoints of state-spaces."""
    from transformers import MambaConfig

    return MambaConfig(hidden_size=hidden, num_hidden_layers=layers, vocab_size=50280, rescale_prenorm_residual=False)


def _llama(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> PreTrainedConfig:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        vocab_size=32000,
        max_position_embeddings=CAPACITY,
        tie_word_embeddings=True,
    )


SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "mamba-130m": lambda: _mamba(768, 24),
    "llama-130m": lambda: _llama(768, 12, 12, 12, 3072),
    "mamba-1.4b": lambda: _mamba(2048, 48),
    "llama-1.4b": lambda: _llama(2048, 24, 32, 8, 7168),
}


def create(config: PreTrainedConfig, folder: Path, seed: int = 0) -> None:
    """Save a model with random float16 weights; made on the GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = AutoModelForCausalLM.from_config(config)
        with whole_folder(folder) as unfinished:
            model.save_pretrained(unfinished)
    finally:
        torch.set_default_dtype(before)


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
