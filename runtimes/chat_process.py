"""Renders chat templates, each a line of standard input, in a process that ``chat_renderer`` starts and may kill.

Templates are Jinja as transformers writes it, with the same names, run in the same kind of sandbox.
"""

from __future__ import annotations

import datetime
import json
import math
import sys
from contextlib import suppress
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from seqexport.runtimes.quiet import said

MEMORY = 1 << 30
"""Bytes of address space, where the system counts them."""

LONGEST = 1 << 24
"""Characters of a prompt."""


def main() -> None:
    """Answers each ``{"template", "names", "seconds"}`` with ``{"text"}`` or ``{"error"}``, after a first ``null``."""
    _limit_memory()
    answer: Any = None
    while True:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        if not (line := sys.stdin.readline()):
            return
        asked = json.loads(line)
        _limit_time(asked["seconds"])
        try:
            answer = {"text": _rendered(asked["template"], asked["names"])}
        except Exception as error:
            answer = {"error": said(error)}


def _rendered(template: str, names: dict[str, Any]) -> str:
    pieces, length = list[str](), 0
    for piece in _environment().from_string(template).generate(names):
        pieces.append(piece)
        length += len(piece)
        if length > LONGEST:
            raise TemplateError(f"a prompt of more than {LONGEST:,} characters")
    return "".join(pieces)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: f"{datetime.datetime.now():{form}}"}
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _limit_time(seconds: float) -> None:
    """Of the processor, for when the process that would end this one has ended itself."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        most = math.ceil(used.ru_utime + used.ru_stime + seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (most + 1, resource.RLIM_INFINITY))
