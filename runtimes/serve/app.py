"""The HTTP interface: OpenAI's completions and chats, and what operators ask."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from seqexport.runtimes.serve.answering import answer
from seqexport.runtimes.serve.bodies import MOST_CHOICES, Asking, ChatBody, CompletionBody
from seqexport.runtimes.serve.errors import Refused, handle_errors
from seqexport.runtimes.serve.guard import Guard
from seqexport.runtimes.serve.keys import Keys
from seqexport.runtimes.serve.metrics import Metrics
from seqexport.runtimes.serve.replies import ChatReply, CompletionReply
from seqexport.runtimes.serve.requests import Request as Question
from seqexport.runtimes.serve.service import Service
from seqexport.runtimes.serve.visits import add_sessions, go_on

MAX_BODY = 4 << 20
PAGE = Path(__file__).with_name("page.html")
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": why}
    for status, why in {
        400: "Malformed, or not for this model; the body says why.",
        401: "No key, or a wrong one.",
        404: "No such model or session.",
        409: "The session is in use.",
        408: "The body did not come in time.",
        413: "The body is too large.",
        429: "The queue is full; Retry-After says when to ask again.",
        503: "Loading, or draining.",
    }.items()
}

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole answer, or its stream.", "content": {"text/event-stream": {}}},
    **REFUSALS,
}


def create_app(service: Service, metrics: Metrics, keys: Keys, *, max_body: int = MAX_BODY) -> ASGIApp:
    """The whole application, with its guard before it.

    Args:
        metrics: those that the service's engine tells what happens.
        max_body: bytes of a request's body.
    """
    app = FastAPI(title="seqexport", version=service.bundle.manifest.source.seqexport, docs_url=None, redoc_url=None)
    handle_errors(app)
    _add_operations(app, service, metrics)
    _add_models(app, service)
    _add_completions(app, service)
    _add_chats(app, service)
    add_sessions(app, service)
    paths = {str(route.path) for route in app.routes if hasattr(route, "path")}
    return Guard(app, keys=keys, max_body=max_body, metrics=metrics, paths=paths)


def _add_operations(app: FastAPI, service: Service, metrics: Metrics) -> None:
    page, chats = PAGE.read_text(encoding="utf-8"), service.chats
    facts = {"model": service.name, "chat": chats, "state_bytes": service.state_bytes}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process serves, whether it takes requests or not."""
        return {"status": service.status}

    @app.get("/ready", responses={503: REFUSALS[503]})
    async def ready() -> Response:
        """Whether requests are taken; 503 while loading or draining."""
        return JSONResponse({"status": service.status}, 200 if service.status == "ready" else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def told() -> Response:
        """Prometheus' text format."""
        return Response(metrics.text(service), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/facts", include_in_schema=False)
    async def about() -> dict[str, Any]:
        """For the page."""
        return facts


def _add_models(app: FastAPI, service: Service) -> None:
    model = {"id": service.name, "object": "model", "created": int(time.time()), "owned_by": "seqexport"}

    @app.get("/v1/models", responses={401: REFUSALS[401]})
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}", responses={status: REFUSALS[status] for status in (401, 404)})
    async def one_model(name: str) -> dict[str, Any]:
        """It, by its name."""
        _check_model(service, name)
        return model


def _add_completions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", responses=ANSWERS)
    async def complete(http: Request, body: CompletionBody) -> Response:
        """Continue one or more prompts, as text or as tokens."""
        _check_model(service, body.model)
        engine = service.engine
        if body.session_id is not None:
            return await go_on(http, service, body, body.session_id)
        prompts = await run_in_threadpool(_tokenized, service, body)
        if len(prompts) * body.n > MOST_CHOICES:
            raise Refused(400, f"{len(prompts)} prompts of {body.n} choices: expected at most {MOST_CHOICES} in all")
        questions = [
            question for tokens in prompts for question in _questions(body, tokens, body.max_tokens, body.logprobs)
        ]
        reply = CompletionReply(service.name, service.tokenizer, logprobs=body.logprobs is not None)
        return await answer(
            http, engine, questions, reply, n=body.n, stream=body.stream, include_usage=body.includes_usage
        )


def _add_chats(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", responses=ANSWERS)
    async def chat(http: Request, body: ChatBody) -> Response:
        """The next message of a conversation, by the bundle's chat template."""
        _check_model(service, body.model)
        engine = service.engine
        tokens = await run_in_threadpool(service.chat_tokens, [message.plain() for message in body.messages])
        questions = [replace(each, talk=True) for each in _questions(body, tokens, body.most, body.told)]
        reply = ChatReply(service.name, service.tokenizer, logprobs=body.told is not None)
        return await answer(
            http, engine, questions, reply, n=body.n, stream=body.stream, include_usage=body.includes_usage
        )


def _check_model(service: Service, name: str) -> None:
    if name != service.name:
        raise Refused(404, f"no model {name[:100]!r} here: this server has {service.name!r}")


def _questions(body: Asking, tokens: list[int], most: int | None, logprobs: int | None) -> list[Question]:
    """One for each choice of a prompt."""
    return [Question(tokens, most, sampling, body.stops, logprobs) for sampling in body.samplings()]


def _tokenized(service: Service, body: CompletionBody) -> list[list[int]]:
    prompts: list[Any] = [body.prompt] if isinstance(body.prompt, str) or _is_tokens(body.prompt) else [*body.prompt]
    return [service.tokenizer.encode(each) if isinstance(each, str) else each for each in prompts]


def _is_tokens(prompt: list[Any]) -> bool:
    return isinstance(prompt[0], int)
