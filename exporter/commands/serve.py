"""``seqexport serve``"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from seqexport.exporter.commands.options import (
    backend_option,
    bundle_argument,
    device_option,
    plugins_option,
    threads_option,
)
from seqexport.plugins.errors import UserError
from seqexport.runtimes.serve.requests import Limits

Command = TypeVar("Command", bound=Callable[..., Any])


def limit(field: str, kind: click.ParamType[Any], help: str) -> Callable[[Command], Command]:
    """An option for a field of ``Limits``."""
    flag, default = f"--{field.replace('_', '-')}", getattr(Limits(), field)
    return click.option(flag, type=kind, default=default, show_default=True, help=help)


@click.command("serve", short_help="Answer OpenAI's clients and browsers from a bundle.")
@bundle_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 for every network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@limit("max_batch", click.IntRange(1), "Sequences that run together.")
@limit("max_queue", click.IntRange(0), "Requests that may wait; others get 429.")
@limit("max_tokens", click.IntRange(2), "Of a prompt and its answer together. Caches are allocated for so many.")
@limit("max_seconds", click.FloatRange(0, min_open=True), "Of a request; what came until then is its answer.")
@limit("prefix_bytes", click.IntRange(0), "Of states after beginnings of prompts, not read again then; 0: none.")
@click.option(
    "--session-bytes",
    type=click.IntRange(0),
    default=256 << 20,
    show_default=True,
    help="Of sessions in memory; the others are in --session-dir.",
)
@click.option(
    "--session-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where sessions have their files, and are found after a restart [default: they are forgotten].",
)
@click.option(
    "--share-sessions",
    is_flag=True,
    help="Other servers have the same --session-dir: each session is written there before its answer ends.",
)
@click.option(
    "--api-key-file", type=click.Path(path_type=Path, dir_okay=False), help="One key a line; without it all may ask."
)
@backend_option
@device_option
@threads_option
@plugins_option
def command(
    bundle: Path,
    host: str,
    port: int,
    max_batch: int,
    max_queue: int,
    max_tokens: int,
    max_seconds: float,
    prefix_bytes: int,
    session_bytes: int,
    session_dir: Path | None,
    share_sessions: bool,
    api_key_file: Path | None,
    backend: str,
    **options: Any,
) -> None:
    """Serve a bundle over HTTP: OpenAI's /v1/completions, /v1/chat/completions and /v1/models, a page at /, and
    /health, /ready and /metrics. Needs: pip install 'seqexport[serve]'.

    \b
    Examples:
      seqexport serve my-model
      seqexport serve my-model --host 0.0.0.0 --port 80 --api-key-file keys.txt
      seqexport serve my-model --backend trt --max-batch 8
    """
    from seqexport.runtimes.backends import backend_named, check_taken
    from seqexport.runtimes.bundle import open_bundle
    from seqexport.runtimes.serve.keys import Keys, read_keys
    from seqexport.runtimes.serve.logs import log_as_json
    from seqexport.runtimes.serve.memory import share_one_heap
    from seqexport.runtimes.serve.server import Metrics, address, listen, serve
    from seqexport.runtimes.serve.service import Service
    from seqexport.runtimes.serve.sessions import Sessions
    from seqexport.runtimes.serve.shared_sessions import SharedSessions

    runs = backend_named(backend)
    check_taken(options, [runs])
    opened = open_bundle(bundle)
    keys = read_keys(api_key_file) if api_key_file is not None else Keys()
    limits = Limits(max_batch, max_queue, max_tokens, max_seconds, prefix_bytes=prefix_bytes)
    if not share_sessions:
        sessions = Sessions(opened, session_bytes, session_dir)
    elif session_dir is not None:
        sessions = SharedSessions(opened, session_bytes, session_dir)
    else:
        raise UserError("`share_sessions` needs a `session_dir` that the servers share; give one, or share none")
    bound = listen(host, port)
    log_as_json()
    share_one_heap()
    metrics = Metrics()
    service = Service(opened, lambda: runs.open_for_server(opened, **options), limits, sessions, metrics)
    click.echo(f"{service.name}: a page at {address(bound)}, for OpenAI's clients {address(bound)}/v1; Ctrl-C ends it")
    serve(service, metrics, keys, bound)
