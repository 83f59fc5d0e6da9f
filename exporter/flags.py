"""Messages of the library name arguments as Python has them, in backticks; the command line says its own flags."""

from __future__ import annotations

import re

ARGUMENT = re.compile(r"(?<!`)`(?P<name>[a-z_]+)(?:=(?P<value>[^`]+))?`(?!`)")
OTHER_NAMES = {"output": "-o", "bundles": "BUNDLES", "bundle": "BUNDLE"}


def flags(message: str) -> str:
    """The message with every ``name`` and ``name=value`` in backticks as a flag of ``seqexport``.

    >>> flags("`max_len` 0: expected at least 1; or take `device='cuda'` and `plugins=False`")
    '--max-len 0: expected at least 1; or take --device cuda and --no-plugins'
    """
    return ARGUMENT.sub(_flag, message)


def _flag(argument: re.Match[str]) -> str:
    name, value = argument["name"], argument["value"]
    flag = OTHER_NAMES.get(name, f"--{name.replace('_', '-')}")
    if value == "False" or name == "plugins":
        return f"--no-{name.replace('_', '-')}"
    if value is None or value == "True":
        return flag
    return f"{flag} {value.replace(chr(39), '').replace(chr(34), '')}"
