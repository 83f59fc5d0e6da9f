"""Checkpoints as the authors' package mamba_ssm saves them: a config of its own, and one tensor of another name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqexport.plugins.errors import UserError
from seqexport.runtimes.pytorch.files import CONFIG, INDEX, WEIGHTS

if TYPE_CHECKING:
    from transformers import MambaConfig

RENAMED = {r"^backbone\.embedding\.": "backbone.embeddings."}
"""mamba_ssm's names, which the first checkpoints of transformers have too, to transformers'."""

FAMILIES = ("mamba", "falcon_mamba", "mamba2")
MIXER = {"d_state": "state_size", "d_conv": "conv_kernel", "expand": "expand", "dt_rank": "time_step_rank",
         "conv_bias": "use_conv_bias", "bias": "use_bias"}  # fmt: skip
INITIALISATION = {"layer", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path"}
"""Settings of ``ssm_cfg`` that the weights do not depend on once they are there."""

CONVERTED = {f"state-spaces/mamba-{size}" for size in ("130m", "370m", "790m", "1.4b", "2.8b")}
"""Those on the hub that have a twin of transformers' layout, named ``...-hf``."""

CONVERSION = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "w = torch.load('pytorch_model.bin', weights_only=True); "
    "save_file({k: v.clone() for k, v in w.items()}, 'model.safetensors')\""
)


def is_original(config: dict[str, Any]) -> bool:
    """Whether ``config.json`` is mamba_ssm's."""
    return not config.get("model_type") and {"d_model", "n_layer"} <= config.keys()


def translated(source: str, folder: Path, config: dict[str, Any]) -> MambaConfig:
    """The same configuration in transformers' words.

    Raises:
        UserError: the weights are pickled, or the model is one that transformers' Mamba is not.
    """
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        raise UserError(f"{source} is in the original layout of mamba_ssm, its weights pickled; {_advice(source)}")
    mixer = config.get("ssm_cfg") or {}
    if mixer.get("layer") == "Mamba2":
        raise UserError(f"{source} is a Mamba-2 in the layout of mamba_ssm, of which only Mamba-1 is read; "
                        "use a copy in transformers' layout")  # fmt: skip
    for name, expected in (("attn_layer_idx", []), ("d_intermediate", 0), ("rms_norm", True)):
        if config.get(name, expected) not in (expected, None):
            raise UserError(f"{source}: {CONFIG} of mamba_ssm has {name} {config[name]}; expected {expected}, "
                            "which is all that transformers' Mamba knows")  # fmt: skip
    if unknown := mixer.keys() - MIXER.keys() - INITIALISATION:
        raise UserError(f"{source}: {CONFIG} of mamba_ssm has the unknown ssm_cfg {min(unknown)!r}")
    from transformers import MambaConfig

    multiple = config.get("pad_vocab_size_multiple") or 1
    return MambaConfig(
        architectures=["MambaForCausalLM"],
        hidden_size=config["d_model"],
        num_hidden_layers=config["n_layer"],
        vocab_size=-(-config["vocab_size"] // multiple) * multiple,
        residual_in_fp32=config.get("residual_in_fp32", True),
        tie_word_embeddings=config.get("tie_embeddings", True),
        **{theirs: mixer[ours] for ours, theirs in MIXER.items() if ours in mixer},
    )


def _advice(source: str) -> str:
    name = source.rstrip("/")
    twin = next((each for each in sorted(CONVERTED) if each.rpartition("/")[2] == name.rpartition("/")[2]), None)
    if twin is not None:
        return f"use the hub's {twin}-hf"
    return f"convert them in its folder: {CONVERSION}"
