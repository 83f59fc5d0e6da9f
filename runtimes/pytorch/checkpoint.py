"""Loads the PyTorch original of a checkpoint: safetensors only, and every defect is one clear line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqexport.plugins.errors import UserError
from seqexport.runtimes.quiet import one_line, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

DTYPES = ("float32", "float16", "bfloat16")
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
WANTED = f"expected a folder with {CONFIG} and {WEIGHTS}, or a Hugging Face hub id"
HUB_FILES = ["*.json", WEIGHTS, "model-*.safetensors", "tokenizer*", "*.txt", "*.jinja"]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
ANOTHER_TASK = re.compile(r"For(?!CausalLM$|ConditionalGeneration$)[A-Z]\w*$")


def load_original(source: str, *, dtype: str | None = None, trust_remote_code: bool = False) -> PreTrainedModel:
    """The causal language model of a checkpoint, in eval mode on the CPU, its weights mapped from the files.

    Args:
        source: a folder, or a Hugging Face hub id.
        dtype: of the weights; None for the config's, else the files'.
        trust_remote_code: run Python code that the checkpoint brings; without it none is ever executed.

    Raises:
        UserError: whatever is wrong with the checkpoint, in one line.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    folder = local_folder(source, trust_remote_code=trust_remote_code)
    config = _config(source, folder, trust_remote_code)
    if dtype is None and config.dtype is not None:
        _check_dtype(source, config.dtype)
    for file in _weight_files(source, folder):
        _check_safetensors(file)
    from transformers import AutoModelForCausalLM

    with quiet(), one_line(source, f"transformers cannot load it as {config.model_type!r}"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype or "auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    model: PreTrainedModel = loaded[0]
    _check_loaded(source, loaded[1])
    _check_dtype(source, model.dtype)
    return model.eval()


def read_config(source: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a causal language model that transformers knows.

    Raises:
        UserError: it cannot be read, or is not one that can be loaded.
    """
    return _config(source, local_folder(source, trust_remote_code=trust_remote_code), trust_remote_code)


def local_folder(source: str, *, trust_remote_code: bool = False) -> Path:
    """The checkpoint's files on this machine; a hub id is fetched into the hub's own cache.

    Raises:
        UserError: no such folder, or the hub does not give it.
    """
    path = os.path.expanduser(source)
    if source and os.path.isdir(path):
        return Path(path)
    if os.path.exists(path):
        raise UserError(f"{source} is a file; {WANTED}")
    if not source or source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source:
        raise UserError(f"{source or repr(source)}: no such folder; {WANTED}")
    return _from_hub(source, HUB_FILES + ["*.py"] * trust_remote_code)


def _from_hub(source: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        with quiet():
            return Path(snapshot_download(source, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except HFValidationError as error:
        raise UserError(f"{source}: no such folder, and not a hub id; {WANTED}") from error
    except GatedRepoError as error:
        raise UserError(f"{source}: the hub asks for access; accept its licence, then: hf auth login") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{source}: no such folder, and no such model on the Hugging Face hub; {WANTED}") from error
    except Exception as error:
        raise UserError(
            f"{source}: no such folder, and the Hugging Face hub cannot be reached ({type(error).__name__}); "
            "check the name and the network, or give a folder"
        ) from error


def _config(source: str, folder: Path, trust_remote_code: bool) -> PreTrainedConfig:
    if not (folder / CONFIG).is_file():
        raise UserError(f"{source} has no {CONFIG}; {WANTED}")
    data = _read_json(folder / CONFIG)
    _check_config(source, data, trust_remote_code)
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    with quiet(), one_line(source, f"{CONFIG} is not a valid {data['model_type']!r} configuration"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    remote = trust_remote_code and "AutoModelForCausalLM" in (data.get("auto_map") or {})
    if config.is_encoder_decoder:
        raise UserError(f"{source} is an encoder-decoder ({config.model_type}); expected a causal language model")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not remote:
        raise UserError(f"{source} is a {config.model_type!r} model; expected a causal language model")
    return config


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); copy the checkpoint again") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({error}); copy the checkpoint again") from error
    if not isinstance(data, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(data).__name__}; copy the checkpoint again")
    return data


def _check_config(source: str, data: dict[str, Any], trust_remote_code: bool) -> None:
    from transformers import CONFIG_MAPPING, __version__

    model_type = data.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise UserError(f"{source}: {CONFIG} has no model_type; {WANTED} as transformers saves it")
    if model_type not in CONFIG_MAPPING and not (trust_remote_code and data.get("auto_map")):
        if data.get("auto_map"):
            raise UserError(
                f"{source}: {model_type!r} needs the Python code that the checkpoint brings; "
                "if you trust its author, add --trust-remote-code"
            )
        raise UserError(
            f"{source}: transformers {__version__} does not know the architecture {model_type!r}; "
            "upgrade transformers, or use another model"
        )
    if quantised := data.get("quantization_config") or data.get("compression_config"):
        method = quantised.get("quant_method", "unknown method") if isinstance(quantised, dict) else quantised
        raise UserError(f"{source} is quantised ({method}); expected {', '.join(DTYPES)} weights: use the original")
    for name in data.get("architectures") or []:
        if ANOTHER_TASK.search(str(name)):
            raise UserError(f"{source} is a {name}; expected a causal language model, such as a ...ForCausalLM")


def _weight_files(source: str, folder: Path) -> list[Path]:
    """The safetensors files to load, in transformers' order of preference."""
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{source} holds an adapter; merge it into its base model and save that")
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{source} has its weights in {pickles[0]}, which can run code when read; safetensors only: "
            "convert with save_pretrained() of a transformers that you trust with it"
        )
    raise UserError(f"{source} has no weights; expected {WEIGHTS}, or {INDEX} and its shards")


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index}: expected a weight_map of tensors to files; copy the checkpoint again")
    shards = sorted(set(names.values()))
    for name in shards:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{index}: lists {name!r}; expected a safetensors file beside it")
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing, though {INDEX} lists it; copy the checkpoint again")
    return [folder / name for name in shards]


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            return
    except (SafetensorError, OSError, ValueError) as error:
        with file.open("rb") as stream:
            if stream.read(30).startswith(b"version https://git-lfs"):
                raise UserError(f"{file}: a Git LFS pointer, not the weights; run: git lfs pull") from error
        raise UserError(
            f"{file}: not a whole safetensors file ({file.stat().st_size} bytes: {error}); copy the checkpoint again"
        ) from error


def _check_dtype(source: str, dtype: Any) -> None:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UserError(f"{source} is {name}; expected {', '.join(DTYPES)}: choose one with --dtype")


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
