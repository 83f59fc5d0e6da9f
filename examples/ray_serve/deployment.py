"""A bundle as a Ray Serve deployment: each replica is seqexport's own server, and all share a folder of sessions."""

# No annotations from __future__: Ray asks ``build`` for the type of what it takes.

from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveInt
from ray import serve
from ray.serve.config import RequestRouterConfig
from starlette.types import ASGIApp

from seqexport.runtimes.backends import backend_named
from seqexport.runtimes.bundle import open_bundle
from seqexport.runtimes.serve.app import create_app
from seqexport.runtimes.serve.keys import Keys, read_keys
from seqexport.runtimes.serve.logs import log_as_json
from seqexport.runtimes.serve.metrics import Metrics
from seqexport.runtimes.serve.requests import Limits
from seqexport.runtimes.serve.service import Service
from seqexport.runtimes.serve.shared_sessions import SharedSessions

STICKY = RequestRouterConfig(request_router_class="ray.serve.experimental.consistent_hash_router:ConsistentHashRouter")
"""Requests with the same ``x-session-id`` go to the same replica as long as it is there."""


class Settings(BaseModel):
    """What ``serve run`` takes as ``name=value``, and a Serve config file under ``args``.

    Attributes:
        bundle, session_dir: folders that every replica sees under these names.
        threads: of a replica's ONNX Runtime, and the CPUs that Ray reserves for it.
        max_batch: requests that run together in a replica. More wait before all replicas, for the first that is free.
        max_queue: requests that wait so.
        session_bytes: of sessions in a replica's memory; all are in ``session_dir``.
        api_key_file: one key a line; None: all may ask.
    """

    model_config = ConfigDict(extra="forbid")
    bundle: Path
    session_dir: Path
    replicas: PositiveInt = 2
    threads: PositiveInt = 1
    max_batch: PositiveInt = Limits().max_batch
    max_queue: PositiveInt = Limits().max_queue
    max_tokens: PositiveInt = Limits().max_tokens
    session_bytes: PositiveInt = 256 << 20
    api_key_file: Path | None = None


@serve.deployment
@serve.ingress()
class Replica:
    """Takes requests once its model is loaded.

    Raises:
        UserError: the bundle cannot be served.
    """

    def __init__(self, settings: Settings) -> None:
        log_as_json()
        bundle = open_bundle(settings.bundle)
        limits = Limits(settings.max_batch, settings.max_queue, settings.max_tokens)
        sessions = SharedSessions(bundle, settings.session_bytes, settings.session_dir)
        keys = Keys() if settings.api_key_file is None else read_keys(settings.api_key_file)
        backend, metrics = backend_named("ort"), Metrics()
        service = Service(bundle, lambda: backend.open(bundle, threads=settings.threads), limits, sessions, metrics)
        self._service = service.loaded()
        self._app = create_app(service, metrics, keys)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    def __del__(self) -> None:
        """Ray calls it when the last request is answered."""
        self._service.close()


def build(settings: Settings) -> serve.Application:
    """The application, for ``serve run`` and Serve's config files.

    Raises:
        UserError: the bundle or the keys cannot be read, or the folder of sessions not be made.
    """
    keys = settings.api_key_file and settings.api_key_file.resolve()
    settings = settings.model_copy(
        update={
            "bundle": settings.bundle.resolve(),
            "session_dir": settings.session_dir.resolve(),
            "api_key_file": keys,
        }
    )
    SharedSessions(open_bundle(settings.bundle), 0, settings.session_dir).close()
    if keys is not None:
        read_keys(keys)
    return Replica.options(
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.max_batch,
        max_queued_requests=settings.max_queue,
        ray_actor_options={"num_cpus": settings.threads},
        request_router_config=STICKY,
        graceful_shutdown_timeout_s=60,
    ).bind(settings)
