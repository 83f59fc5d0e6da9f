"""Serves a bundle from several replicas on this machine, until it is stopped."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import click
import ray
from deployment import Settings, build
from ray import serve

from seqexport.plugins.errors import UserError
from seqexport.runtimes.serve.server import listen

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--session-dir", type=FOLDER, required=True, help="Where all sessions are, for all replicas.")
@click.option("--replicas", type=click.IntRange(1), default=DEFAULTS["replicas"], show_default=True)
@click.option("--threads", type=click.IntRange(1), default=DEFAULTS["threads"], show_default=True, help="Of a replica.")
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=DEFAULTS["max_batch"],
    show_default=True,
    help="Requests that run together in a replica.",
)
@click.option("--api-key-file", type=FILE, help="One key a line; without it all may ask.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
def main(host: str, port: int, **settings: Any) -> None:
    """Serve BUNDLE with Ray Serve: a Ray of its own, a proxy before the replicas, and a folder of sessions behind."""
    try:
        application = build(Settings(**settings))
        listen(host, port).close()
    except UserError as error:
        raise click.UsageError(str(error)) from error
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "gone:middlewares")
    wanted = settings["replicas"] * settings["threads"]
    ray.init(address="local", include_dashboard=False, num_cpus=max(os.cpu_count() or 1, wanted))
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(application)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        click.echo(f"{settings['bundle'].name}: {settings['replicas']} replicas at http://{host}:{port}")
        threading.Event().wait()
    except KeyboardInterrupt:
        serve.shutdown()  # the replicas answer what they have
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
