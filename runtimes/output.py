"""What a command writes where its user said: whole or not at all, with one clear line where that fails."""

from __future__ import annotations

from pathlib import Path

import msgspec

from seqexport.plugins import publish
from seqexport.plugins.errors import UserError


def write_output(file: Path, data: bytes) -> None:
    """Raises UserError: the file cannot be written; what was there stays."""
    try:
        publish.write_whole(file, data)
    except OSError as error:
        raise _refused(file, error) from error


def require_writable(file: Path) -> None:
    """Raises UserError: the file could not be written; found out before long work, and nothing stays of it."""
    try:
        publish.require_writable(file)
    except OSError as error:
        raise _refused(file, error) from error


def write_json(file: Path, value: object) -> None:
    """Raises UserError: as ``write_output``."""
    write_output(file, as_json(value))


def _refused(file: Path, error: OSError) -> UserError:
    return UserError(f"{file}: cannot be written ({error.strerror or error})")


def as_json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
