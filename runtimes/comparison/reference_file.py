"""A bundle's ``reference.safetensors``, held by its name: the bundle was made elsewhere, and so was what judges it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import safe_open

from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import ANY, regular
from seqexport.runtimes.quiet import said


@contextmanager
def held_reference(path: Path, advice: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The opened file, and its metadata; whatever is raised while it is read says that it is damaged.

    Args:
        path: of the file.
        advice: what to do.

    Raises:
        UserError: it is not there, or is damaged.
    """
    try:
        with safe_open(regular(path, ANY, path.parent), "numpy") as file:
            yield file, {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there: the bundle was exported without a reference; {advice}") from error
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # safetensors' panics too
        raise UserError(f"{path} is damaged ({said(error)}); {advice}") from error


def array(file: Any, name: str, most: int) -> NDArray[Any]:
    """An array of the file, if it has ``most`` elements at most.

    Raises:
        ValueError: it has more.
        Exception: it has none, as safetensors says it.
    """
    shape = file.get_slice(name).get_shape()
    if math.prod(shape) > most:
        raise ValueError(f"{name} has the shape {shape}; expected at most {most:,} elements")
    found: NDArray[Any] = file.get_tensor(name)
    return found
