"""A module that a Python function of the user's makes, and its weights. Importing it runs the user's code."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import ANY, regular
from seqexport.runtimes.quiet import one_line

NAME = re.compile(r"(?P<home>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<factory>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
NAMED = 3
"""Tensors that a message names; of more it says how many."""


def make_module(name: str, weights: Path | None = None) -> nn.Module:
    """Import ``package.module:factory`` from the current folder or the Python path, and call the factory.

    Args:
        name: of a function or class that takes no arguments and gives a module, or of a module itself.
        weights: a safetensors file of all its tensors.

    Raises:
        UserError: there is no such function, it fails, or the weights are not the module's.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise UserError(f"`module` {name!r}: expected package.module:factory, as in my_models.vision:make")
    with _current_folder():
        factory = _factory(name, found["home"], found["factory"])
        module = factory if isinstance(factory, nn.Module) else _called(name, factory)
    if not isinstance(module, nn.Module):
        raise UserError(f"`module` {name}: it gives a {type(module).__name__}; expected a torch.nn.Module")
    if weights is not None:
        load_weights(module, weights)
    return module


@contextmanager
def _current_folder() -> Iterator[None]:
    """Imports look in the current folder first, as those of ``python -m`` do."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def _factory(name: str, home: str, path: str) -> Any:
    try:
        value: Any = importlib.import_module(home)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{home}.".startswith(f"{error.name}."):
            raise UserError(
                f"`module` {name}: there is no {error.name} in {Path.cwd()} or on the Python path"
            ) from error
        raise UserError(f"`module` {name}: importing {home} needs {error.name}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"`module` {name}: importing {home} raised {_line(error)}") from error
    for part in path.split("."):
        if not hasattr(value, part):
            near = difflib.get_close_matches(part, [each for each in dir(value) if each[0] != "_"], 3)
            advice = f"; there is {', '.join(near)}" if near else ""
            raise UserError(f"`module` {name}: {home} has no {path}{advice}")
        value = getattr(value, part)
    return value


def _called(name: str, factory: Any) -> Any:
    if not callable(factory):
        raise UserError(f"`module` {name}: it is a {type(factory).__name__}; expected a function that gives a module")
    try:
        return factory()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a script that reads its arguments ends where it has none
        raise UserError(f"`module` {name}: the factory raised {_line(error)}") from error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def load_weights(module: nn.Module, file: Path) -> None:
    """Put the tensors of a safetensors file into a module: all of them, and nothing else.

    Raises:
        UserError: the file is none, or its names or shapes are not the module's; the module stays as it is.
    """
    if file.suffix != ".safetensors":
        raise UserError(f"`weights` {file}: expected a .safetensors file; others can run code when they are read")
    try:
        tensors = load_file(regular(file, ANY))
    except OSError as error:
        raise UserError(f"`weights` {file}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise UserError(f"`weights` {file}: not a whole safetensors file ({error}); copy it again") from error
    own, kind = module.state_dict(keep_vars=True), type(module).__name__
    missing = own.keys() - tensors.keys() - _tied(own, tensors)
    if missing:
        raise UserError(f"`weights` {file} lacks {_listed(missing)}, which {kind} has")
    if unknown := tensors.keys() - own.keys():
        raise UserError(f"`weights` {file} has {_listed(unknown)}, which {kind} has not")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"`weights` {file}: {name} has the shape {list(tensor.shape)}; {kind} expects {list(own[name].shape)}"
            )
    with one_line(f"`weights` {file}", f"cannot be loaded into {kind}"), torch.no_grad():
        module.load_state_dict(tensors, strict=False)


def _tied(own: dict[str, Any], tensors: dict[str, Any]) -> set[str]:
    """Names of tensors that another name of the file brings: a file holds tied ones once."""
    brought = {id(own[name]) for name in tensors.keys() & own.keys()}
    return {name for name, tensor in own.items() if id(tensor) in brought}


def _listed(names: set[str]) -> str:
    shown, more = sorted(names)[:NAMED], len(names) - NAMED
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
