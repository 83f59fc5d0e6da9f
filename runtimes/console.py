"""Where the programs write to: a character that the output cannot encode is replaced, and never an error."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys

from rich.console import Console

STAND_INS = {"✓": "+", "✗": "!", "·": ".", "•": "*", "–": "-", "−": "-", "×": "x", "÷": "/", "≥": ">=", "≤": "<=",
             "µ": "u", "’": "'", "“": '"', "”": '"', "…": "...", "\N{NARROW NO-BREAK SPACE}": " "}  # fmt: skip
"""Of the characters that we write ourselves; any other becomes a replacement character or a question mark."""

SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
POWER = re.compile(f"[{''.join(map(chr, SUPERSCRIPTS))}]+")
ERRORS = "seqexport.stand_ins"
PIPE_WIDTH = 1000
"""Characters in a line of what is no terminal: a table there is as wide as it wants to be."""


def replace_unencodable() -> None:
    """From now on nothing that is printed raises UnicodeEncodeError, whatever the encoding of the output."""
    codecs.register_error(ERRORS, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    unknown = "\N{REPLACEMENT CHARACTER}" if error.encoding.startswith("utf") else "?"
    powers = POWER.sub(lambda power: "^" + power[0].translate(SUPERSCRIPTS), text)
    ours = (STAND_INS.get(character, character) for character in powers)
    return "".join(character if character.isascii() else unknown for character in "".join(ours)), error.end


def readable(argument: str) -> str:
    """A command line argument as text: bytes of it that are not UTF-8 are replaced."""
    return os.fsencode(argument).decode("utf-8", "replace")


def open_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Standard output or error; lines are laid out to the terminal's width, or to that of ``$COLUMNS``."""
    made = Console(stderr=stderr, soft_wrap=soft_wrap)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made
