"""Arguments and options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from seqexport.runtimes.backends import backends

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

bundle_argument: Decorator = click.argument("bundle", type=click.Path(path_type=Path))
device_option: Decorator = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Where to run, of backends that have a choice [default: cpu]."
)
backend_option: Decorator = click.option(
    "--backend", metavar="NAME", default="ort", show_default=True, help=f"What runs it: {', '.join(backends())}."
)
threads_option: Decorator = click.option(
    "--threads", type=click.IntRange(1), help="CPU threads; default: all cores that this process may use."
)
plugins_option: Decorator = click.option(
    "--no-plugins",
    "plugins",
    flag_value=False,
    type=bool,
    default=None,
    help="Backend ort: the ops' function bodies, not the compiled library.",
)
original_option: Decorator = click.option(
    "--original",
    metavar="DIR_OR_HUB_ID",
    help="The PyTorch original; default: where the bundle came from. Of any module PACKAGE.MODULE:FACTORY, whose code "
    "is run.",
)
weights_option: Decorator = click.option(
    "--weights", type=click.Path(path_type=Path, dir_okay=False), help="Of any module: the original's safetensors file."
)
remote_code_option: Decorator = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run Python code that the checkpoint brings. Never done without this.",
)
