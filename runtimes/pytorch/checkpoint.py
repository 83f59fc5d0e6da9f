"""Loads the PyTorch original of a checkpoint: safetensors only, and every defect is one clear line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from seqexport.plugins.errors import UserError
from seqexport.runtimes.pytorch import hub, mamba_ssm
from seqexport.runtimes.pytorch.files import (
    CONFIG,
    WANTED,
    check_adapter,
    check_files,
    read_json,
    weight_files,
)
from seqexport.runtimes.pytorch.language_model import auto_class, is_wrapper, language_model
from seqexport.runtimes.pytorch.sizes import check_counts, check_fits, check_types, held
from seqexport.runtimes.quiet import one_line, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

DTYPES = ("float32", "float16", "bfloat16")
ANOTHER_TASK = re.compile(r"For(?!CausalLM$|ConditionalGeneration$)[A-Z]\w*$")
CAUSAL = "AutoModelForCausalLM"


def load_original(
    source: str, *, dtype: str | None = None, trust_remote_code: bool = False, clamped: list[str] | None = None
) -> PreTrainedModel:
    """The causal language model of a checkpoint, in eval mode on the CPU, its weights mapped from the files.

    Of a model that reads images or sound too it is the language model inside.

    Args:
        source: a folder, or a Hugging Face hub id.
        dtype: of the weights; None for the config's, else the files'.
        trust_remote_code: run Python code that the checkpoint brings; without it none is ever executed.
        clamped: a list: weights beyond the dtype are set to its limit, and their names added here; None: refused.

    Raises:
        UserError: whatever is wrong with the checkpoint, in one line.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"`dtype` {dtype!r}: expected one of {', '.join(DTYPES)}")
    folder = local_folder(source, trust_remote_code=trust_remote_code)
    config = _config(source, folder, trust_remote_code)
    if dtype is None and config.dtype is not None:
        _check_dtype(source, config.dtype)
    files = weight_files(source, folder)
    weights = held(files)
    from seqexport.runtimes.pytorch.weights import check_finite

    with quiet(), one_line(source, f"transformers cannot load it as {config.model_type!r}"):
        auto = _auto_class(source, config, trust_remote_code)
        check_fits(source, auto, config, weights, trust_remote_code=trust_remote_code)
        options = {"dtype": dtype or "auto", "trust_remote_code": trust_remote_code}
        model = _loaded(source, auto.from_pretrained, folder, config, options)
        if is_wrapper(model.config):
            model = language_model(source, model)
    _check_dtype(source, model.dtype)
    check_types(source, model, weights)
    check_finite(source, files, model, clamped)
    return model.eval()


def _loaded(
    source: str, load: Callable[..., Any], folder: Path, config: PreTrainedConfig, options: dict[str, Any]
) -> PreTrainedModel:
    """The model with every weight from the files, and every weight of the files in it."""
    renamed = mamba_ssm.RENAMED if config.model_type in mamba_ssm.FAMILIES else None
    options = {
        **options,
        "use_safetensors": True,
        "local_files_only": True,
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
        "key_mapping": renamed,
    }
    try:
        model, info = load(folder, config=config, **options)
    except Exception:
        if not config.tie_word_embeddings:
            raise
        config.tie_word_embeddings = False  # transformers fails to compare a tied pair that does not fit the config
        _check_loaded(source, load(folder, config=config, **options)[1])
        raise
    _check_loaded(source, info)
    return cast("PreTrainedModel", model)


def local_folder(source: str, *, trust_remote_code: bool = False) -> Path:
    """The checkpoint's files on this machine; a hub id is fetched into the hub's own cache.

    Raises:
        UserError: no such folder, the hub does not give it, or one of its files is no file, or a link that leads out.
    """
    folder = _folder(source, trust_remote_code)
    check_files(folder)
    return folder


def _folder(source: str, trust_remote_code: bool) -> Path:
    path = os.path.expanduser(source)
    if source and os.path.isdir(path):
        return Path(path)
    if os.path.exists(path):
        raise UserError(f"{source} is a file; {WANTED}")
    if not source or source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source:
        raise UserError(f"{source or repr(source)}: no such folder; {WANTED}")
    return hub.download(source, code=trust_remote_code)


def _config(source: str, folder: Path, trust_remote_code: bool) -> PreTrainedConfig:
    check_adapter(source, folder)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{source} has no {CONFIG}; {WANTED}")
    data = read_json(folder / CONFIG)
    check_counts(source, data)
    if mamba_ssm.is_original(data):
        with one_line(source, f"{CONFIG} is not a valid configuration of mamba_ssm"):
            return mamba_ssm.translated(source, folder, data)
    with one_line(source, f"{CONFIG} is not a valid configuration"):
        _check_config(source, data, trust_remote_code)
    from transformers import AutoConfig

    with quiet(), one_line(source, f"{CONFIG} is not a valid {data['model_type']!r} configuration"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    if config.is_encoder_decoder:
        raise UserError(f"{source} is an encoder-decoder ({config.model_type}); expected a causal language model")
    _auto_class(source, config, trust_remote_code)
    return config


def _auto_class(source: str, config: PreTrainedConfig, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    brought = trust_remote_code and CAUSAL in (getattr(config, "auto_map", None) or {})
    return AutoModelForCausalLM if brought else auto_class(source, config)


def _check_config(source: str, data: dict[str, Any], trust_remote_code: bool) -> None:
    from transformers import CONFIG_MAPPING

    model_type = data.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise UserError(f"{source}: {CONFIG} has no model_type; {WANTED} as transformers saves it")
    named = data.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise UserError(f"{source}: {CONFIG} has architectures {named!r}; expected a list of class names")
    for name in named:
        if ANOTHER_TASK.search(name):
            raise UserError(f"{source} is a {name}; expected a causal language model, such as a ...ForCausalLM")
    if model_type not in CONFIG_MAPPING:
        _check_code(source, model_type, data.get("auto_map") or {}, trust_remote_code)
    if quantised := data.get("quantization_config") or data.get("compression_config"):
        method = quantised.get("quant_method", "unknown method") if isinstance(quantised, dict) else quantised
        raise UserError(f"{source} is quantised ({method}); expected {', '.join(DTYPES)} weights: use the original")
    if named := data.get("transformers_weights"):
        raise UserError(f"{source}: {CONFIG} names its weights ({named!r}); expected them as transformers saves them")


def _check_code(source: str, model_type: str, auto_map: dict[str, Any], trust_remote_code: bool) -> None:
    """Whether code that the checkpoint brings could make a language model of a type that transformers does not know."""
    from transformers import __version__

    if not auto_map:
        raise UserError(
            f"{source}: transformers {__version__} does not know the architecture {model_type!r}; "
            "upgrade transformers, or use another model"
        )
    if CAUSAL not in auto_map:
        raise UserError(
            f"{source} is not a language model: the Python code that it brings for {model_type!r} makes "
            f"{', '.join(sorted(auto_map))}; expected {CAUSAL}"
        )
    if not trust_remote_code:
        raise UserError(
            f"{source}: {model_type!r} needs the Python code that the checkpoint brings; "
            "if you trust its author, take `trust_remote_code=True`"
        )


def _check_dtype(source: str, dtype: Any) -> None:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UserError(f"{source} is {name}; expected {', '.join(DTYPES)}: choose one with `dtype`")


def _check_loaded(source: str, info: dict[str, Any]) -> None:
    if info["mismatched_keys"]:
        tensor, found, expected = min(info["mismatched_keys"])
        raise UserError(
            f"{source}: {tensor} has the shape {list(found)}, and {CONFIG} asks for {list(expected)}"
            f"{_others(info['mismatched_keys'])}; take both from the same checkpoint"
        )
    if missing := info["missing_keys"]:
        raise UserError(
            f"{source}: the weights lack {min(missing)}{_others(missing)}, which {CONFIG} asks for; "
            "take both from the same checkpoint"
        )
    if unexpected := info["unexpected_keys"]:
        raise UserError(
            f"{source}: the weights have {min(unexpected)}{_others(unexpected)}, "
            f"for which {CONFIG} has no place; take both from the same checkpoint"
        )


def _others(names: Sized) -> str:
    more = len(names) - 1
    return f" (and {more} more)" if more else ""
