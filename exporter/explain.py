"""Errors from deep inside tracing as one line: which line of the module, and what usually mends it."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from seqexport.plugins.errors import UserError

Frames = Sequence[tuple[FrameType, int]]

NO_TRANSLATION = re.compile(r"No ONNX function found for <OpOverload\(op='(\w+[\w.]*)'")
BY_VALUE = (
    ": what it does depends on the values of a tensor; use torch.where or torch.cond, or make the choice when the "
    "module is made"
)
VALUE_ERRORS = ("GuardOnDataDependentSymNode", "DataDependentOutputException", "UserErrorType.DYNAMIC_CONTROL_FLOW")
LONGEST = 200
"""Characters that a message takes over of another."""


@contextmanager
def explained(model: nn.Module) -> Iterator[None]:
    """Errors from deep inside tracing become one line that names the model's class.

    Raises:
        UserError: in place of any other exception, which is its cause.
    """
    name = type(model).__name__
    try:
        yield
    except Exception as error:
        told = next((cause for cause in causes(error) if isinstance(cause, UserError)), None)
        if told is None:
            where = _place(model, error)
            raise UserError(
                f"{name} cannot be exported: {where} does what the exporter does not know{_why(error)}"
            ) from error
        if name not in str(told):
            raise UserError(f"{name} cannot be exported: {told}") from error
        if told is error:
            raise
        raise UserError(str(told)) from error


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, what caused that."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _why(error: BaseException) -> str:
    """What the last cause says, or what usually mends it."""
    chain = list(causes(error))
    for each in chain:
        if found := NO_TRANSLATION.search(str(each)):
            return f": no ONNX form of {found[1]} is known; give one with `translations`, or write it in other ops"
        if any(kind in type(each).__name__ or kind in str(each) for kind in VALUE_ERRORS):
            return BY_VALUE
    text = " ".join(str(chain[-1]).split())[:LONGEST]
    return f": {type(chain[-1]).__name__}{f': {text}' if text else ''}"


def _place(model: nn.Module, error: BaseException) -> str:
    """The model's own line that could not be traced, as far as the errors say, and the layer that it ran for."""
    frames = [frame for cause in causes(error) for frame in traceback.walk_tb(cause.__traceback__)]
    files = _own_files(model)
    own = [(frame, line) for frame, line in frames if frame.f_code.co_filename in files]
    if not own:
        return "one of its layers"
    last, line = own[-1]
    return (
        f"{last.f_code.co_name}() at line {line} of its {Path(last.f_code.co_filename).name}{_running(model, frames)}"
    )


def _own_files(model: nn.Module) -> set[str]:
    """The sources of the model's classes, PyTorch's own left out."""
    homes = {type(module).__module__ for module in model.modules()}
    files = {getattr(sys.modules[home], "__file__", None) or "" for home in homes}
    library = str(Path(torch.__file__).parent)
    return {file for file in files if not file.startswith(library)}


def _running(model: nn.Module, frames: Frames) -> str:
    """The innermost part of a layer that the frames ran."""
    paths = {id(module): path for path, module in model.named_modules()}
    running = [frame.f_locals.get("self") for frame, _ in frames]
    parts = [(paths[id(part)], part) for part in running if isinstance(part, nn.Module) and id(part) in paths]
    layers = [part_name(path, part) for path, part in parts if any(name.isdigit() for name in path.split("."))]
    return f", in {layers[-1]}," if layers else ""


def part_name(path: str, module: nn.Module) -> str:
    """What a part of a model is to be called: the number of its layer, and its class."""
    number = next((part for part in path.split(".") if part.isdigit()), None)
    kind = type(module).__name__
    return kind if number is None else f"layer {number} ({kind})"
