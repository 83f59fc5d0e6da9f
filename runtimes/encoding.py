"""Characters that the output cannot encode, and bytes that are no text: replaced, and never an error."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys

STAND_INS = {"✓": "+", "✗": "!", "·": ".", "•": "*", "–": "-", "−": "-", "×": "x", "÷": "/", "≥": ">=", "≤": "<=",
             "µ": "u", "’": "'", "“": '"', "”": '"', "…": "...", "\N{NARROW NO-BREAK SPACE}": " "}  # fmt: skip
"""Of the characters that we write ourselves; any other becomes a replacement character or a question mark."""

SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
POWER = re.compile(f"[{''.join(map(chr, SUPERSCRIPTS))}]+")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a terminal obeys instead of showing it: also the marks that turn the direction of a text."""

ERRORS = "seqexport.stand_ins"


def replace_unencodable() -> None:
    """From now on nothing that is printed raises UnicodeEncodeError, whatever the encoding of the output."""
    codecs.register_error(ERRORS, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def _stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    if error.encoding == "utf-8":  # which lacks nothing but halves of surrogate pairs
        return ("\N{REPLACEMENT CHARACTER}" * len(text)).encode(), error.end
    text = POWER.sub(lambda power: "^" + power[0].translate(SUPERSCRIPTS), text)
    ours = "".join(STAND_INS.get(character, character) for character in text)
    return "".join(character if character.isascii() else "?" for character in ours), error.end


def plain(text: str) -> str:
    """The text with a replacement character for each control character but line ends and tabs."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def shown(text: str) -> str:
    """A model's text for standard output: as it is for a file or a program, and ``plain`` for a terminal."""
    return plain(text) if sys.stdout.isatty() else text


def readable(given: str) -> str:
    """What the system gave, an argument or a path, as text: bytes of it that are not UTF-8 are replaced."""
    return os.fsencode(given).decode("utf-8", "replace")
