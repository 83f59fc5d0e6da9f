"""Fetches a checkpoint from the Hugging Face hub into the hub's own cache: what loading reads, and nothing else."""

from __future__ import annotations

import glob
from pathlib import Path

from seqexport.plugins.errors import UserError
from seqexport.runtimes.pytorch.files import INDEX, WANTED, WEIGHTS, shard_names
from seqexport.runtimes.quiet import quiet

PATTERNS = ["*.json", WEIGHTS, "tokenizer*", "*.model", "*.txt", "*.jinja"]


def download(source: str, *, code: bool) -> Path:
    """The snapshot of a hub id; of shards, those that the index names, whatever they are called.

    Args:
        code: Python files too.

    Raises:
        UserError: no such model, or the hub does not give it.
    """
    folder = _snapshot(source, PATTERNS + ["*.py"] * code)
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return folder
    return _snapshot(source, [glob.escape(name) for name in shard_names(folder)], revision=folder.name)


def _snapshot(source: str, patterns: list[str], revision: str | None = None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        with quiet():
            return Path(snapshot_download(source, allow_patterns=patterns, ignore_patterns=["*/*"], revision=revision))
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
