"""The user's folders, as the XDG base directory specification has them. A relative path in one of its variables counts
as none, as it says: else what is loaded would depend on the folder that a program happens to run in."""

from __future__ import annotations

import os
from pathlib import Path

from seqexport.plugins.errors import UserError


def data() -> Path:
    """``$XDG_DATA_HOME``, or ``~/.local/share``.

    Raises:
        UserError: as ``home``.
    """
    return _named("XDG_DATA_HOME") or home() / ".local" / "share"


def cache() -> Path:
    """``$XDG_CACHE_HOME``, or ``~/.cache``.

    Raises:
        UserError: as ``home``.
    """
    return _named("XDG_CACHE_HOME") or home() / ".cache"


def home() -> Path:
    """The user's own folder: ``$HOME``, else that of the system's list of users.

    Raises:
        UserError: neither names one.
    """
    if named := _named("HOME"):
        return named
    listed = _listed_home()
    if listed is None or not listed.is_absolute():
        raise UserError("HOME: not set to an absolute path, and the system knows no folder of this user; set HOME")
    return listed


def _named(variable: str) -> Path | None:
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None


def _listed_home() -> Path | None:
    try:
        import pwd
    except ImportError:  # Windows, which knows by other variables
        return Path(os.path.expanduser("~"))
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # as in a container that runs under a number
        return None
