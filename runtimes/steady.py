"""Reading a folder that may be replaced meanwhile: all of the old one, or all of the new one."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
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
            before = _identity(path)
            try:
                given = read(path, *args, **options)
            except Exception:
                if _identity(path) == before:
                    raise
            else:
                if _identity(path) == before:
                    return given

    return again


def _identity(path: Folder) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):  # what it is, ``read`` says
        return None
    return status.st_dev, status.st_ino
