"""Rows of tokens from a held-out text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Tokens
from seqexport.runtimes.bundle import Bundle

MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Rows:
    """int64[rows, tokens], and how many UTF-8 bytes the tokens from ``prompt`` on stand for."""

    ids: Tokens
    bytes: int


def read_rows(path: Path, bundle: Bundle, *, rows: int, prompt: int, tokens: int) -> Rows:
    """Rows that start evenly apart in a text, in the bundle's tokens, or in bytes where it has no tokenizer.

    Raises:
        UserError: the text cannot be read or is too short, or there is nothing to tokenize it with.
    """
    ids, starts = _tokenize(_read(path), path, bundle)
    if len(ids) < tokens:
        raise UserError(f"{path}: {len(ids)} tokens; the comparison needs {tokens}: give a longer text")
    if ids.max() >= bundle.contract.vocab_size:
        raise UserError(
            f"{bundle.name}: its tokenizer gives token {ids.max()}, outside its {bundle.contract.vocab_size}"
        )
    first = np.linspace(0, len(ids) - tokens, rows).astype(int)
    length = sum(int(starts[i + tokens] - starts[i + prompt]) for i in first)
    return Rows(np.stack([ids[i : i + tokens] for i in first]), length)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(MOST_BYTES).decode("utf-8", errors="ignore")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a text file") from error


def _tokenize(text: str, path: Path, bundle: Bundle) -> tuple[Tokens, Tokens]:
    """Token ids, and the byte at which each starts; the latter has one more, the end."""
    if bundle.tokenizer is None:
        if bundle.contract.vocab_size < 256:
            raise UserError(
                f"{bundle.name} has no tokenizer, and its {bundle.contract.vocab_size} tokens cannot be "
                "bytes; export a checkpoint with a tokenizer"
            )
        data = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        return data, np.arange(data.size + 1)
    from tokenizers import Tokenizer

    encoding = Tokenizer.from_file(str(bundle.tokenizer)).encode(text, add_special_tokens=False)
    ends = np.cumsum([0, *(len(character.encode()) for character in text)])
    starts = [start for start, _ in encoding.offsets]
    return np.array(encoding.ids, np.int64), ends[[*starts, len(text)]]
