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
    """int64[rows, tokens], and how many UTF-8 bytes the tokens from ``prompt`` on stand for.

    Each row begins with what the tokenizer puts before every text, such as a beginning-of-text token.
    """

    ids: Tokens
    bytes: int


def read_rows(path: Path, bundle: Bundle, *, rows: int, prompt: int, tokens: int) -> Rows:
    """Rows that start evenly apart in a text, in the bundle's tokens, or in bytes where it has no tokenizer.

    Raises:
        UserError: the text cannot be read or is too short, or there is nothing to tokenize it with.
    """
    before, ids, starts = _tokenize(_read(path), path, bundle)
    given = tokens - len(before)
    if len(ids) < given:
        raise UserError(f"{path}: {len(ids)} tokens; the comparison needs {given}: give a longer text")
    largest = max(int(ids.max()), int(before.max(initial=0)))
    if largest >= bundle.manifest.vocab_size:
        raise UserError(f"{bundle.name}: its tokenizer gives token {largest}, outside its {bundle.manifest.vocab_size}")
    first = np.linspace(0, len(ids) - given, rows).astype(int)
    read = max(prompt - len(before), 0)
    length = sum(int(starts[i + given] - starts[i + read]) for i in first)
    return Rows(np.stack([np.concatenate([before, ids[i : i + given]]) for i in first]), length)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(MOST_BYTES).decode("utf-8", errors="ignore")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a text file") from error


def _tokenize(text: str, path: Path, bundle: Bundle) -> tuple[Tokens, Tokens, Tokens]:
    """What comes before every text, the text's tokens, and the byte at which each starts, with the end as one more."""
    if bundle.tokenizer is None:
        if bundle.manifest.vocab_size < 256:
            raise UserError(
                f"{bundle.name} has no tokenizer, and its {bundle.manifest.vocab_size} tokens cannot be "
                "bytes; export a checkpoint with a tokenizer"
            )
        data = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        return np.empty(0, np.int64), data, np.arange(data.size + 1)
    from seqexport.runtimes.tokenizer import encode
    from seqexport.runtimes.tokenizer_file import load_tokenizer

    tokenizer = load_tokenizer(bundle.tokenizer)
    encoding = encode(tokenizer, text, special_tokens=False)
    whole = encode(tokenizer, text[:1])
    before = whole.ids[: whole.special_tokens_mask.index(0) if 0 in whole.special_tokens_mask else 0]
    ends = np.cumsum([0, *(len(character.encode()) for character in text)])
    starts = [start for start, _ in encoding.offsets]
    return np.array(before, np.int64), np.array(encoding.ids, np.int64), ends[[*starts, len(text)]]
