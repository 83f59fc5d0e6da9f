"""The fields of a protobuf message, as they lie in a file: the runtimes need no protobuf package."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from seqexport.plugins.reading import ANY, opened

VARINT, BYTES, GROUPS, FIXED = 0, 2, (3, 4), {1: 8, 5: 4}
"""How a field is written."""


class NotWhole(Exception):
    """Bytes that are no protobuf."""


class Field(NamedTuple):
    """A field that holds bytes, from ``begin`` to ``end``, or where ``is_bytes`` is False the number ``value``."""

    number: int
    is_bytes: bool
    begin: int
    end: int
    value: int


@contextmanager
def mapped(file: Path) -> Iterator[mmap.mmap | bytes]:
    """A file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    with opened(file, ANY) as stream:
        if not os.fstat(stream.fileno()).st_size:
            yield b""
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def fields(data: mmap.mmap | bytes, position: int, end: int) -> Iterator[Field]:
    """Those of the message that lies there; numbers of fixed size are passed over.

    Raises:
        NotWhole: the bytes are no message.
    """
    while position < end:
        key, position = varint(data, position, end)
        kind = key & 7
        if kind == BYTES:
            size, position = varint(data, position, end)
            if size > end - position:
                raise NotWhole
            yield Field(key >> 3, True, position, position + size, 0)
            position += size
        elif kind == VARINT:
            begin = position
            value, position = varint(data, position, end)
            yield Field(key >> 3, False, begin, position, value)
        elif kind in FIXED:
            position += FIXED[kind]
        elif kind not in GROUPS:
            raise NotWhole


def numbers(data: mmap.mmap | bytes, place: Field) -> Iterator[int]:
    """Those of a repeated field: each in a field of its own, or many in one.

    Raises:
        NotWhole: the bytes are no numbers.
    """
    if not place.is_bytes:
        yield place.value
        return
    position = place.begin
    while position < place.end:
        number, position = varint(data, position, place.end)
        yield number


def varint(data: mmap.mmap | bytes, position: int, end: int) -> tuple[int, int]:
    """A number, and where the next field begins.

    Raises:
        NotWhole: there is none.
    """
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position, value, shift = position + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, position
    raise NotWhole
