"""A Hugging Face hub on this machine, over HTTP as the hub's own client speaks it. Repositories are folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves ``root``/owner/name as the model owner/name; ``served`` holds the names of the files asked for."""

    def __init__(self, root: Path) -> None:
        self.root, self.served = root, set[str]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if api else parts
        repository = self.root / owner / name
        headers = {"X-Repo-Commit": COMMIT}
        if not repository.is_dir():
            _send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        elif api and rest[:1] == ["tree"]:
            listing = [_entry(repository, file) for file in sorted(repository.rglob("*")) if file.is_file()]
            _send(request, 200, json.dumps(listing).encode(), headers, body)
        elif api:
            siblings = [{"rfilename": entry["path"]} for entry in map(_named(repository), repository.rglob("*"))]
            info = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            _send(request, 200, json.dumps(info).encode(), headers, body)
        else:
            file = repository.joinpath(*rest[2:])  # resolve/<revision>/<file>
            if not file.is_file():
                _send(request, 404, b"{}", {**headers, "X-Error-Code": "EntryNotFound"}, body)
                return
            self.served.add(str(file.relative_to(repository)))
            data = file.read_bytes()
            _send(request, 200, data, {**headers, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}, body)


def _named(repository: Path) -> Any:
    return lambda file: {"path": str(file.relative_to(repository))}


def _entry(repository: Path, file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {
        "type": "file",
        "path": str(file.relative_to(repository)),
        "size": len(data),
        "oid": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
    }


def _send(request: BaseHTTPRequestHandler, code: int, data: bytes, headers: dict[str, str], body: bool) -> None:
    request.send_response(code)
    for name, value in {**headers, "Content-Length": str(len(data))}.items():
        request.send_header(name, value)
    request.end_headers()
    if body:
        request.wfile.write(data)


@contextmanager
def serving(root: Path) -> Iterator[FakeHub]:
    hub = FakeHub(root)
    thread = Thread(target=hub.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        thread.join()
        hub.server.server_close()
