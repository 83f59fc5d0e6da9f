"""The files of a checkpoint's folder: which are its weights, and that each is whole and its own."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from seqexport.plugins import reading
from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import ANY, LISTS, SETTINGS, WORDS, is_inside, opened, regular

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
WANTED = f"expected a folder with {CONFIG} and {WEIGHTS}, or a Hugging Face hub id"
ADAPTER = "adapter_config.json"
TEMPLATES = "additional_chat_templates"
READ = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "tokenizer*", TEMPLATES, f"{TEMPLATES}/*")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
COPY_AGAIN = "copy the checkpoint again"


def check_files(folder: Path) -> None:
    """Refuse a checkpoint of which a part that is read is no file, or a link to a place outside: it would be published.

    Links inside the folder are fine, and so are those of the hub's cache, whose snapshots link to its blobs.

    Raises:
        UserError: naming the file.
    """
    try:
        paths = [*folder.iterdir(), *(folder / TEMPLATES).glob("*")]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); {COPY_AGAIN}") from error
    for path in paths:
        name = str(path.relative_to(folder))
        if any(fnmatch(name, pattern) for pattern in READ):
            _check_file(folder, name)


def _check_file(folder: Path, name: str) -> None:
    path = folder / name
    if not is_inside(folder, name):
        target = os.path.realpath(path)
        raise UserError(f"{path} is a link to {target}, outside the checkpoint; put the file itself in its place")
    try:
        if not path.is_dir():
            regular(path, ANY if path.suffix == ".safetensors" else WORDS, folder)
    except FileNotFoundError:  # a link to nothing, which is told where the file is missed
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {COPY_AGAIN}") from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        data = reading.read_json(file, LISTS if file.name == INDEX else SETTINGS, file.parent)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); {COPY_AGAIN}") from error
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); {COPY_AGAIN}") from error
    if not isinstance(data, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(data).__name__}; {COPY_AGAIN}")
    return data


def check_adapter(source: str, folder: Path) -> None:
    """Raises UserError: the folder holds an adapter, whose own weights are no model."""
    if (folder / ADAPTER).is_file():
        base = read_json(folder / ADAPTER).get("base_model_name_or_path") or "another model"
        raise UserError(
            f"{source} holds an adapter of {base}; merge it first (PEFT's merge_and_unload) and save the merged model"
        )


def weight_files(source: str, folder: Path) -> list[Path]:
    """The safetensors files to load, in transformers' order of preference.

    Raises:
        UserError: there are none, or one of them is missing or damaged.
    """
    if (folder / WEIGHTS).is_file():
        files = [folder / WEIGHTS]
    elif (folder / INDEX).is_file():
        files = [folder / name for name in shard_names(folder)]
    elif pickles := pickled(folder):
        raise UserError(
            f"{source} has its weights in {pickles[0]}, which can run code when read; safetensors only: "
            "convert with save_pretrained() of a transformers that you trust with it"
        )
    else:
        raise UserError(f"{source} has no safetensors weights; expected {WEIGHTS}, or {INDEX} and its shards")
    for file in files:
        _check_whole(file)
    return files


def pickled(folder: Path) -> list[str]:
    return sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))


def shard_names(folder: Path) -> list[str]:
    """The files that the index of a sharded checkpoint names; all lie beside it.

    Raises:
        UserError: it is not such an index.
    """
    index = folder / INDEX
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index}: expected a weight_map of tensors to files; {COPY_AGAIN}")
    shards = sorted(set(names.values()))
    for name in shards:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise UserError(f"{index}: lists {name!r}; expected a safetensors file beside it")
    return shards


def _check_whole(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with opened(file, ANY, file.parent) as stream:
            begin, target, size = stream.read(30), stream.name, os.fstat(stream.fileno()).st_size
    except FileNotFoundError as error:
        raise UserError(f"{file}: missing, though {INDEX} lists it; {COPY_AGAIN}") from error
    except OSError as error:
        raise UserError(
            f"{file.parent}: {INDEX} lists {file.name!r}, which cannot be read ({error.strerror})"
        ) from error
    if begin.startswith(b"version https://git-lfs"):
        raise UserError(f"{file}: a Git LFS pointer, not the weights; run: git lfs pull")
    try:
        with safe_open(target, framework="pt"):
            return
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file}: not a whole safetensors file ({size} bytes: {error}); {COPY_AGAIN}") from error
