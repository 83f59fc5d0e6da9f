"""How the programs here end: one line and exit code 2 for a UserError, as ``seqexport`` itself."""

from __future__ import annotations

import sys

import click

from seqexport.plugins.errors import UserError
from seqexport.runtimes.encoding import replace_unencodable


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
