"""The commands of python -m tests.support."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import click

from tests.exporter.families import EXPORTED
from tests.support import tensorrt
from tests.support.records import FOLDER
from tests.support.table import PAGE, written


@click.group()
def main() -> None:
    """Run and record what is supported, and write it down."""


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def run(pytest_arguments: tuple[str, ...]) -> None:
    """Run every case here and record what passes.

    The record is that of the transformers that is installed. What follows goes to pytest, such as -k mamba.
    """
    release = ".".join(importlib.metadata.version("transformers").split(".")[:2])
    recording = ["--support", str(FOLDER / f"transformers-{release}.json"), "tests/exporter/test_families.py"]
    sys.exit(subprocess.run([sys.executable, "-m", "pytest", *recording, *pytest_arguments]).returncode)


@main.command()
def table() -> None:
    """Write the table of docs/supported.md out of the records."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("families", nargs=-1, type=click.Choice(list(EXPORTED)), metavar="[FAMILY]...")
def bundles(folder: Path, families: tuple[str, ...]) -> None:
    """Export what TensorRT is to run.

    Into FOLDER, of every family or of those that are named.
    """
    tensorrt.make_bundles(folder, families)


main.add_command(tensorrt.run)


if __name__ == "__main__":
    main(prog_name="python -m tests.support")
