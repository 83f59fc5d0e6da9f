"""Every command explains itself, and shows how to use it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from seqexport.exporter.cli import COMMANDS
from tests.cli.conftest import Run


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert "Example" in result.out
    assert f"  seqexport {command}" in result.out
    assert run(command, "-h").out == result.out


def test_help_lists_every_command_and_where_to_start(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    assert "Start here:" in result.out
    for command in COMMANDS:
        assert f"\n  {command} " in result.out


def test_version(run: Run) -> None:
    assert run("--version").out == f"seqexport, version {importlib.metadata.version('seqexport')}\n"


@pytest.mark.parametrize("args", [["nothing"], ["onnx", "--nothing"], ["generate"], ["verify"]], ids=str)
def test_a_command_line_that_is_wrong_exits_with_2(run: Run, args: list[str]) -> None:
    result = run(*args)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert "Error: " in result.err.splitlines()[-1]


def test_no_command_loads_a_framework_before_it_runs() -> None:
    loaded = "import sys; from seqexport.exporter import cli; [cli.cli.get_command(None, n) for n in cli.COMMANDS]"
    check = f"{loaded}; print(sorted({{'torch', 'transformers', 'onnx', 'onnxruntime'}} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
