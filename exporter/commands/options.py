"""Arguments and options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from seqexport.plugins.errors import UserError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

bundle_argument: Decorator = click.argument("bundle", type=click.Path(path_type=Path))
device_option: Decorator = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to run."
)
backend_option: Decorator = click.option(
    "--backend", type=click.Choice(["ort", "trt", "torch"]), default="ort", show_default=True, help="What runs it."
)
threads_option: Decorator = click.option(
    "--threads", type=click.IntRange(1), help="CPU threads; default: all cores that this process may use."
)
no_plugins_option: Decorator = click.option(
    "--no-plugins", is_flag=True, help="Backend ort: the ops' function bodies, not the compiled library."
)
original_option: Decorator = click.option(
    "--original", metavar="DIR_OR_HUB_ID", help="The PyTorch original; default: where the bundle came from."
)
remote_code_option: Decorator = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run Python code that the checkpoint brings. Never done without this.",
)


def source_of(original: str | None, recorded: str) -> str:
    """Where to load the original from: what the user says, else what the bundle recorded."""
    try:
        from seqexport.exporter.models import resolve_source
    except ImportError as error:
        raise UserError(f"the backend 'torch' needs {error.name}: pip install 'seqexport[export]'") from error
    return resolve_source(original or recorded, None)
