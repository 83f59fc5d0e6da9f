"""Reading a folder that may be replaced meanwhile: all of the old one, or all of the new one."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, TypeVar

from typing_extensions import ParamSpec

Options = ParamSpec("Options")
Given = TypeVar("Given")
Folder = str | os.PathLike[str]


def steady(
    read: Callable[Concatenate[Folder, Options], Given],
) -> Callable[Concatenate[Folder, Options], Given]:
    """Reads again where another folder came under the name while ``read`` read it."""

    @functools.wraps(read)
    def again(path: Folder, /, *args: Options.args, **options: Options.kwargs) -> Given:
        while True:
            with _held(path) as is_there:
                try:
                    given = read(path, *args, **options)
                except Exception:
                    if is_there():
                        raise
                else:
                    if is_there():
                        return given

    return again


@contextmanager
def _held(path: Folder) -> Iterator[Callable[[], bool]]:
    """Whether a folder still has its name; while it is open, no other one gets its number. Of no folder, always."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, ValueError, AttributeError):  # what it is, ``read`` says; or Windows, which opens no folder
        yield lambda: True
        return
    try:
        yield lambda: _is(folder, path)
    finally:
        os.close(folder)


def _is(folder: int, path: Folder) -> bool:
    try:
        return os.path.samestat(os.fstat(folder), os.stat(path))
    except OSError:  # nothing has its name now
        return True
