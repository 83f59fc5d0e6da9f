"""A ``tokenizer.json``, read so that nothing in it can end the process.

The tokenizers library believes the file: its Rust side panics on much of what does not fit together, which is an error
like others here, but for two cases, where it ends the process or reads beyond a string. They are looked for before.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from seqexport.plugins.reading import WORDS, read
from seqexport.runtimes.quiet import one_line, without_native_errors

TRIAL = "The state, 12 é 語 🙂"
"""A text that any tokenizer has to bear, if not to know."""


class _Model(msgspec.Struct):
    continuing_subword_prefix: str | None = None
    merges: list[str | tuple[str, str]] = []


class _File(msgspec.Struct):
    """What of a file is looked at here."""

    model: _Model
    normalizer: dict[str, Any] | None = None


def load_tokenizer(file: Path) -> Tokenizer:
    """A tokenizer that keeps every token of a text and always gives the same ones.

    Truncation, padding and dropout are settings of a training run, which ``save_pretrained`` leaves in the file.

    Raises:
        UserError: it cannot be read, or panics where it is used.
    """
    with one_line(str(file), "cannot be read as a tokenizer"), without_native_errors():
        data = read(file, WORDS, file.parent)
        _check(msgspec.json.decode(data, type=_File))
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None
        _try(tokenizer)
    return tokenizer


def _check(file: _File) -> None:
    """Raises ValueError: the library would not survive it."""
    if prefix := file.model.continuing_subword_prefix:
        seconds = (merge.split(" ")[-1] if isinstance(merge, str) else merge[1] for merge in file.model.merges)
        if other := next((second for second in seconds if not second.startswith(prefix)), None):
            raise ValueError(f"merges {other!r}, which does not begin with the prefix {prefix!r}")
    for charsmap in _charsmaps(file.normalizer):
        content = base64.b64decode(charsmap)
        if int.from_bytes(content[:4], "little") > len(content) - 4:
            raise ValueError("a charsmap that is cut short")


def _charsmaps(normalizer: Any) -> Iterator[str]:
    parts = [normalizer]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += part.get("normalizers") or ()
            if isinstance(charsmap := part.get("precompiled_charsmap"), str):
                yield charsmap


def _try(tokenizer: Tokenizer) -> None:
    """Raises what is no Exception: a panic. A text that it has no tokens for is no fault of its own."""
    with suppress(Exception):
        tokenizer.encode(TRIAL)
    with suppress(Exception):
        tokenizer.decode(range(min(4, tokenizer.get_vocab_size())), skip_special_tokens=False)
