"""Sessions over HTTP: made, gone on with, deleted."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from seqexport.runtimes.serve.answering import answer
from seqexport.runtimes.serve.bodies import CompletionBody
from seqexport.runtimes.serve.errors import Refused
from seqexport.runtimes.serve.replies import CompletionReply
from seqexport.runtimes.serve.requests import Request
from seqexport.runtimes.serve.service import Service
from seqexport.runtimes.serve.sessions import InUse, Sessions, Unknown
from seqexport.runtimes.snapshot import Snapshot

GONE_OR_BUSY: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such session."},
    409: {"description": "Another request goes on with it."},
}


class SessionVisit:
    """A session that was taken, and goes back in a thread of its own: it may be written to a file."""

    def __init__(self, sessions: Sessions, name: str, start: Snapshot | None) -> None:
        self._sessions, self._name, self._start = sessions, name, start
        self._left = False

    async def leave(self, kept: Snapshot) -> None:
        self._left = True
        await run_in_threadpool(self._sessions.give, self._name, kept)

    def abandon(self) -> None:
        if not self._left:
            self._left = True
            asyncio.get_running_loop().run_in_executor(None, self._sessions.give, self._name, self._start)


def add_sessions(app: FastAPI, service: Service) -> None:
    """Where sessions are made, looked at and deleted."""

    @app.post("/v1/sessions", status_code=201)
    def make() -> dict[str, str]:
        """A new session, for ``session_id`` in ``/v1/completions``."""
        return {"id": service.sessions.create(), "object": "session"}

    @app.get("/v1/sessions/{name}", responses={404: GONE_OR_BUSY[404]})
    def look(name: str) -> dict[str, Any]:
        """How many tokens a session has, so that a client can tell whether an answer that broke off counts."""
        try:
            return {"id": name, "object": "session", "tokens": service.sessions.tokens(name)}
        except Unknown as error:
            raise _no_session(name) from error

    @app.delete("/v1/sessions/{name}", responses=GONE_OR_BUSY)
    def delete(name: str) -> dict[str, Any]:
        """Forget a session, and its file."""
        try:
            service.sessions.delete(name)
        except Unknown as error:
            raise _no_session(name) from error
        except InUse as error:
            raise _in_use(name) from error
        return {"id": name, "object": "session", "deleted": True}


async def go_on(http: HttpRequest, service: Service, body: CompletionBody, name: str) -> Response:
    """Continue a session with one prompt, which may be empty once it has text.

    Raises:
        Refused: there is no such session, another request uses it, or there are several prompts or choices.
    """
    if not isinstance(body.prompt, str) or body.n > 1:
        raise Refused(400, "session_id: goes with one prompt of text and n of 1")
    start = await run_in_threadpool(_taken, service.sessions, name)
    visit = SessionVisit(service.sessions, name, start)
    try:
        tokens = service.tokenizer.encode(body.prompt, special_tokens=start is None) if body.prompt else []
        sampling = body.samplings()[0]
        question = Request(tokens, body.max_tokens, sampling, body.stops, body.logprobs, start, keep=True)
        reply = CompletionReply(service.name, service.tokenizer, logprobs=body.logprobs is not None)
        return await answer(
            http,
            service.engine,
            [question],
            reply,
            n=1,
            stream=body.stream,
            include_usage=body.includes_usage,
            visit=visit,
        )
    except BaseException:
        visit.abandon()
        raise


def _taken(sessions: Sessions, name: str) -> Snapshot | None:
    try:
        return sessions.take(name)
    except Unknown as error:
        raise _no_session(name) from error
    except InUse as error:
        raise _in_use(name) from error


def _no_session(name: str) -> Refused:
    return Refused(404, f"no session {name[:64]!r} here, or no more: make one with POST /v1/sessions")


def _in_use(name: str) -> Refused:
    return Refused(409, f"session {name}: another request goes on with it; ask after its answer")
