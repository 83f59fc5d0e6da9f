"""Protobuf's text format, as Triton's ``config.pbtxt`` has it. The runtimes need no protobuf package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

Value = str | int | bool | Mapping[str, "Value"] | Sequence["Value"]
"""A Mapping is a message, a Sequence a repeated field; an ``Enum`` one of an enum's names."""

Message = Mapping[str, Value]


class Enum(str):
    """A name that stands without quotes."""


def as_text(message: Message, indent: str = "") -> str:
    """The fields of a message, a line each, in their order."""
    return "".join(_field(name, value, indent) for name, value in message.items())


def _field(name: str, value: Value, indent: str) -> str:
    if isinstance(value, Mapping):
        inside = as_text(value, f"{indent}  ")
        return f"{indent}{name} {{\n{inside}{indent}}}\n" if inside else f"{indent}{name} {{ }}\n"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "".join(_field(name, each, indent) for each in value)
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: str | int) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, Enum)) else json.dumps(value, ensure_ascii=False)
