"""Imports go plugins <- runtimes <- exporter. The lint rule holds imports to it; this holds strings, by which a program
of a lower layer could start, import or read what is above it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ABOVE = {"plugins": ("runtimes", "exporter"), "runtimes": ("exporter",)}


def named_above(source: str, layers: tuple[str, ...]) -> Iterator[str]:
    """The strings that name a module, a file or a folder of ``layers``, or a command line that starts with ours."""
    name = re.compile(rf"(^|[^\w.])(seqexport[./])?({'|'.join(layers)})([./]\w|$)")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and name.search(node.value):
            yield node.value
        if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "'seqexport'":
            yield ast.unparse(node)


@pytest.mark.parametrize("layer", ABOVE)
def test_no_string_names_what_is_above(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    found = {str(file): list(named_above(file.read_text(), ABOVE[layer])) for file in files}
    assert files
    assert {file: strings for file, strings in found.items() if strings} == {}


@pytest.mark.parametrize(
    "source",
    [
        'run([sys.executable, "-m", "seqexport.exporter.cli", "onnx"])',
        'setting.torch("exporter.cli", "onnx")',
        'run(f"{python} -m seqexport.exporter.cli onnx")',
        'run(["seqexport", "onnx"])',
        'import_module("seqexport.exporter")',
        'SOURCE / "exporter" / "presets"',
        '"""Measured by exporter/benchmarks/op_bodies.py."""',
    ],
)
def test_what_names_it_is_found(source: str) -> None:
    assert list(named_above(source, ("exporter",)))


@pytest.mark.parametrize(
    "source",
    [
        'f"{folder} is not a bundle; make one with: seqexport onnx --model CHECKPOINT -o FOLDER"',
        '"the exporter writes it"',
        '"the exporter. And then"',
        'folders.cache() / "seqexport"',
        'PACKAGES = ("seqexport", "torch")',
        '"torch.exporter.x"',
    ],
)
def test_advice_to_the_user_is_not(source: str) -> None:
    assert not list(named_above(source, ("exporter",)))
