"""Inputs, axes and states of any module as the command line spells them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from seqexport.plugins.errors import UserError

INPUT = re.compile(r"(?P<sizes>\d+(?:x\d+)*|scalar)(?::(?P<dtype>\w+)(?::(?P<below>\d+))?)?")
INPUT_DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "bool")
MOST_BYTES = 2**33
"""Of an example: beyond it, sizes are mistyped."""


def parse_inputs(texts: Iterable[str]) -> dict[str, Tensor]:
    """Examples of ``x=1x3x224x224``, ``ids=1x16:int64:1000`` (values below 1000) or ``t=scalar``; random values.

    Raises:
        UserError: naming the part that is none.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = {name: _example(name, sizes, generator) for name, sizes in _pairs("--input", texts)}
    if not inputs:
        raise UserError("--module: give an example of each input, as in --input x=1x3x224x224")
    return inputs


def _example(name: str, text: str, generator: torch.Generator) -> Tensor:
    found = INPUT.fullmatch(text)
    dtype = (found["dtype"] or "float32") if found else ""
    if found is None or dtype not in INPUT_DTYPES or (found["below"] and not dtype.startswith("int")):
        raise UserError(
            f"--input {name}={text}: expected sizes and perhaps a dtype, as in {name}=1x3x224x224 or "
            f"{name}=1x16:int64:1000 (values below 1000); dtypes are {', '.join(INPUT_DTYPES)}"
        )
    shape = [] if found["sizes"] == "scalar" else [int(size) for size in found["sizes"].split("x")]
    count = 8
    for size in shape:
        count *= size
    if count > MOST_BYTES:
        raise UserError(f"--input {name}={text}: that is {count // 8:,} values; give a smaller example")
    if dtype in ("int64", "int32", "bool"):
        below = int(found["below"] or 2)
        if below < 1:
            raise UserError(f"--input {name}={text}: no value is below 0")
        return torch.randint(below, shape, generator=generator).to(getattr(torch, dtype))
    return torch.randn(shape, generator=generator).to(getattr(torch, dtype))


def parse_dynamic(texts: Iterable[str]) -> dict[str, tuple[str | int, ...]]:
    """Axes of ``x=batch,3,height,width``: names, and sizes of those that stay.

    Raises:
        UserError: naming the part that is none.
    """
    return {name: tuple(_axes(name, axes)) for name, axes in _pairs("--dynamic", texts)}


def _axes(name: str, text: str) -> Iterator[str | int]:
    for axis in text.split(","):
        if not axis.isdecimal() and not axis.isidentifier():
            raise UserError(f"--dynamic {name}={text}: expected names and sizes, as in {name}=batch,3,height,width")
        yield int(axis) if axis.isdecimal() else axis


def parse_states(texts: Iterable[str]) -> dict[str, str]:
    """``h=h_after``: the input that holds a state before a call, and the output after it.

    Raises:
        UserError: naming the part that is none.
    """
    return dict(_pairs("--state", texts))


def _pairs(option: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    seen = set[str]()
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value or name in seen:
            again = "; it is given twice" if name in seen else ""
            raise UserError(f"{option} {text!r}: expected NAME=VALUE, each name once{again}")
        seen.add(name)
        yield name, value
