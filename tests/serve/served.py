"""A server of a bundle on a free port, in this process."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai

from seqexport.runtimes.bundle import MANIFEST, Bundle, open_bundle
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.serve.keys import Keys
from seqexport.runtimes.serve.metrics import Metrics
from seqexport.runtimes.serve.requests import Limits
from seqexport.runtimes.serve.server import Server, create_server, listen
from seqexport.runtimes.serve.service import Service
from seqexport.runtimes.serve.sessions import Sessions
from seqexport.runtimes.serve.shared_sessions import SharedSessions

KEY = "sesame"
TEMPLATE = "{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}<assistant> "


class Served:
    """What clients need of a server that runs."""

    def __init__(self, url: str, service: Service, server: Server) -> None:
        self.url, self.service, self.server, self.model = url, service, server, service.name

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=60)

    def post(self, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {KEY}", **options.pop("headers", {})}
        return httpx.post(self.url + path, headers=headers, timeout=60, **options)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60)

    def metric(self, name: str) -> float:
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].split()[-1])


@contextmanager
def served(
    bundle: Bundle,
    limits: Limits,
    folder: Path | None = None,
    holds: threading.Event | None = None,
    *,
    shared: bool = False,
) -> Iterator[Served]:
    """Without the op library, behind a key; loaded, unless ``holds`` keeps it from that."""

    def opened() -> OrtRunner:
        assert holds is None or holds.wait(60)
        return OrtRunner(bundle, threads=1, plugins=False)

    metrics = Metrics()
    sessions = SharedSessions(bundle, 1 << 20, folder) if shared and folder else Sessions(bundle, 1 << 20, folder)
    with listen("127.0.0.1", 0) as bound, Service(bundle, opened, limits, sessions, metrics) as service:
        if holds is None:
            service.loaded()
        server = create_server(service, metrics, Keys([KEY]))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{bound.getsockname()[1]}", service, server)
        finally:
            server.should_exit = True
            thread.join(60)
    assert not thread.is_alive()


def with_template(bundle: Bundle, folder: Path) -> Bundle:
    """A copy of a bundle that has a chat template."""
    shutil.copytree(bundle.path, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    hashed = {"chat_template.jinja": hashlib.sha256(TEMPLATE.encode()).hexdigest()}
    manifest = msgspec.structs.replace(bundle.manifest, files=bundle.manifest.files | hashed)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return open_bundle(folder)


def wait_until(met: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)
