"""A tokenizer.json for a checkpoint that has its tokenizer in older files alone, made by transformers and checked."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import WORDS, read_json
from seqexport.runtimes.quiet import one_line, quiet

TOKENIZER = "tokenizer.json"
SENTENCEPIECE, TIKTOKEN = ("*.model",), ("*.tiktoken", "tekken.json")
VOCABULARIES = ("vocab.json", "merges.txt", "vocab.txt", *SENTENCEPIECE, *TIKTOKEN)
SAMPLE = "The state of a model, at 1.5 MB: it's\n    def f(x):\n        return x + 10\nand so on. "
"""What a tokenizer must give back, but for spaces and capitals."""

WITHOUT = "the bundle will have no tokenizer, and `generate` no text; put a tokenizer.json beside the weights"


@dataclass(frozen=True)
class Made:
    """``content``: of a tokenizer.json, None where none could be made; ``said``: to the user, in one line."""

    content: str | None
    said: str


def make_tokenizer(checkpoint: Path | None) -> Made | None:
    """None where the folder has a tokenizer.json. Nothing is fetched, and no code of the checkpoint runs.

    Args:
        checkpoint: the folder of the tokenizer's files; None where the model came without.
    """
    if checkpoint is None:
        return Made(None, f"the model came without a tokenizer's files: {WITHOUT}, or give `tokenizer`")
    if (checkpoint / TOKENIZER).is_file():
        return None
    files = sorted(file for pattern in VOCABULARIES for file in checkpoint.glob(pattern))
    if not files:
        return Made(None, f"the checkpoint has no tokenizer: {WITHOUT}")
    names = " and ".join(file.name for file in files)
    if missing := _missing_package(checkpoint):
        return Made(None, f"{names} without a {TOKENIZER}, which needs pip install {missing} to be made: {WITHOUT}")
    try:
        with quiet(), one_line(str(checkpoint), f"no {TOKENIZER} can be made of {names}"):
            tokenizer, maker = _converted(checkpoint, files)
    except UserError as error:
        return Made(None, f"{error}: {WITHOUT}")
    return Made(tokenizer.to_str(), f"{TOKENIZER} is made of {names}, by transformers' {maker}")


def _missing_package(checkpoint: Path) -> str | None:
    for patterns, packages in ((SENTENCEPIECE, ("sentencepiece", "protobuf")), (TIKTOKEN, ("tiktoken",))):
        needed = any(True for pattern in patterns for _ in checkpoint.glob(pattern))
        modules = {"protobuf": "google.protobuf"}
        if needed and any(importlib.util.find_spec(modules.get(package, package)) is None for package in packages):
            return " ".join(packages)
    return None


def _converted(checkpoint: Path, files: list[Path]) -> tuple[Tokenizer, str]:
    """The first that passes the checks, and the class that made it.

    Raises:
        UserError: none does, for the reason of the first.
        Exception: transformers'.
    """
    reasons = []
    for load in _loaders():
        loaded = load(checkpoint, local_files_only=True, trust_remote_code=False)
        tokenizer: Any = getattr(loaded, "backend_tokenizer", None)
        reason = "transformers has no fast tokenizer for it" if tokenizer is None else _fault(tokenizer, files)
        if reason is None:
            return tokenizer, type(loaded).__name__
        reasons.append(f"{type(loaded).__name__}: {reason}")
    raise UserError(f"no {TOKENIZER} can be made of {files[0].name} ({reasons[0]})")


def _loaders() -> Iterator[Callable[..., Any]]:
    """What the checkpoint's config asks for, then that of Llama, whose kind most SentencePiece files are."""
    from transformers import AutoTokenizer, LlamaTokenizer

    yield AutoTokenizer.from_pretrained
    yield LlamaTokenizer.from_pretrained


def _fault(tokenizer: Tokenizer, files: list[Path]) -> str | None:
    """Why a tokenizer cannot be the one of these files: a wrong class gives wrong tokens and says nothing."""
    ids = tokenizer.encode(SAMPLE, add_special_tokens=False).ids
    if _letters(tokenizer.decode(ids)) != _letters(SAMPLE):
        return "its tokens do not give a text back"
    for file in files:
        if file.name == "vocab.json":
            known = tokenizer.get_vocab()
            if any(known.get(name) != number for name, number in read_json(file, WORDS).items()):
                return f"its vocabulary is not that of {file.name}"
        if file.suffix == ".model" and _pieces(file) != ids:
            return f"its tokens are not those that sentencepiece gives with {file.name}"
    return None


def _letters(text: str) -> str:
    return "".join(text.split()).lower()


def _pieces(file: Path) -> list[int]:
    from sentencepiece import SentencePieceProcessor

    ids: list[int] = SentencePieceProcessor(model_file=str(file)).encode(SAMPLE)
    return ids
