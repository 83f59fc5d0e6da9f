"""What a command writes where its user said: whole or not at all, with one clear line where that fails."""

from __future__ import annotations

from pathlib import Path

import msgspec

from seqexport.plugins.errors import UserError
from seqexport.plugins.files import write_whole


def write_output(file: Path, data: bytes) -> None:
    """Raises UserError: the file cannot be written; what was there stays."""
    try:
        write_whole(file, data)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error})") from error


def write_json(file: Path, value: object) -> None:
    """Raises UserError: as ``write_output``."""
    write_output(file, as_json(value))


def as_json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
