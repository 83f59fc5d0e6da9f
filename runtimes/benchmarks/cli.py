"""How the programs here end: with JSON; one line and exit code 2 for a UserError, as ``seqexport`` itself."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from seqexport.plugins.errors import UserError
from seqexport.runtimes.encoding import replace_unencodable
from seqexport.runtimes.output import as_json, write_json


def run(command: click.Command) -> None:
    """Run a command with this process's arguments."""
    replace_unencodable()
    try:
        command(standalone_mode=False)
    except UserError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)


def tell(value: object, output: Path | None) -> None:
    """Write a value to a file as JSON; None: print it.

    Raises:
        UserError: the file cannot be written.
    """
    if output is None:
        click.echo(as_json(value).decode())
    else:
        write_json(output, value)
