"""API keys: those of a file, compared in a time that tells nothing of them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import SETTINGS, read

BEARER = "bearer "


class Keys:
    """Who may ask. Without keys, everybody may."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def allow(self, authorization: bytes | None) -> bool:
        """Whether an ``Authorization`` header has one of the keys; every key is compared, whichever it is."""
        if not self._digests:
            return True
        given = authorization or b""
        named = given[: len(BEARER)].lower() == BEARER.encode()
        digest = _digest(given[len(BEARER) :].strip())
        return sum(hmac.compare_digest(digest, each) for each in self._digests) > 0 and named


def read_keys(file: Path) -> Keys:
    """One key a line; empty lines and those that begin with # are none.

    Raises:
        UserError: it cannot be read, or has no key.
    """
    try:
        lines = read(file, SETTINGS).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file}: cannot be read ({reason}); give a text file of one key a line") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise UserError(f"{file}: has no key, so that nobody could ask; give one key a line")
    return Keys(keys)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
