"""Requests that are answered, and their answers held to those of the library alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from seqexport.runtimes.benchmarks.serve_load.questions import Question, Questions
from seqexport.runtimes.benchmarks.serve_load.tally import Differs, Tally
from seqexport.runtimes.benchmarks.serve_load.wire import Connection

COMPLETIONS, SESSIONS = "/v1/completions", "/v1/sessions"
NEAR = 1e-4
"""Between log probabilities: sequences in one batch round otherwise than one alone."""

SLOW_SECONDS = 0.02
"""Between two pieces that a slow reader takes."""

AGAIN_SECONDS = 0.01
MOST_ABANDONED = 200
"""Sessions that are not deleted at once, but gone on with much later."""


class Client:
    """Asks over one connection after another; several run at once.

    Args:
        sessions: those that wait for their next turn, shared by all clients: their ids and turns to come.
    """

    def __init__(
        self,
        port: int,
        key: str,
        model: str,
        questions: Questions,
        tally: Tally,
        sessions: list[tuple[str, list[Question]]],
    ) -> None:
        self.port, self.key, self.model, self.tally = port, key, model, tally
        self.questions, self._sessions = questions, sessions
        self.connection = Connection(port, key)

    def body(self, question: Question, **more: Any) -> bytes:
        return msgspec.json.encode({"model": self.model, **question.fields, **more})

    async def whole(self, drawn: random.Random) -> None:
        await self._hold(drawn.choice(self.questions.single))

    async def streamed(self, drawn: random.Random) -> None:
        await self._hold_stream(self.connection, drawn.choice(self.questions.single), 0)

    async def slow(self, drawn: random.Random) -> None:
        """A reader with a small buffer that takes its time."""
        connection = Connection(self.port, self.key, receives=4096)
        try:
            await self._hold_stream(connection, drawn.choice(self.questions.long), SLOW_SECONDS)
        finally:
            connection.drop()

    async def left(self, drawn: random.Random) -> None:
        """The client leaves: with half a body, before the answer, or in the midst of it."""
        question, way = drawn.choice(self.questions.long), drawn.randrange(4)
        body = self.body(question, stream=way > 1)
        head = self.connection.head("POST", COMPLETIONS, len(body))
        await self.connection.send(head + (body[: len(body) // 2] if way == 0 else body))
        if way == 1:
            await asyncio.sleep(drawn.random() * 0.05)
        elif way > 1:
            await self._read_some(question, drawn.randint(1, 5))
        self.connection.drop()
        self.tally.count(None)

    async def _read_some(self, question: Question, events: int) -> None:
        status, text = await self.connection.status(), ""
        if status == 429:
            return
        self._expect(status, 200, question)
        async for event in _events(self.connection):
            text += event["choices"][0]["text"]
            if (events := events - 1) == 0:
                break
        if not question.said[0].text.startswith(text):
            raise Differs(f"{question.fields}: a stream began {text!r}, and alone it is {question.said[0].text!r}")

    async def talk(self, drawn: random.Random) -> None:
        """A session: made, gone on with, by somebody who leaves too, and deleted; or left for later."""
        name = msgspec.json.decode(await self._answer("POST", SESSIONS, b"", 201))["id"]
        first, *others = drawn.choice(self.questions.talks)
        await self._hold(first, session_id=name)
        if drawn.random() < 0.3:
            await self._leave_session(name, others[0])
        self._sessions.append((name, others))
        if len(self._sessions) > MOST_ABANDONED or drawn.random() < 0.5:
            await self.end_talk(drawn)

    async def end_talk(self, drawn: random.Random) -> None:
        """The rest of one that waits."""
        name, turns = self._sessions.pop(drawn.randrange(len(self._sessions)))
        for turn in turns:
            await self._hold(turn, session_id=name)
        await self._answer("DELETE", f"{SESSIONS}/{name}", b"", 200)

    async def _leave_session(self, name: str, turn: Question) -> None:
        body = self.body(turn, session_id=name, max_tokens=500)
        await self.connection.send(self.connection.head("POST", COMPLETIONS, len(body)) + body)
        await asyncio.sleep(0.005)
        self.connection.drop()
        self.tally.count(None)

    async def _hold(self, question: Question, **more: Any) -> None:
        answer = msgspec.json.decode(await self._answer("POST", COMPLETIONS, self.body(question, **more), 200))
        self._compare(question, answer["choices"], answer["usage"])

    async def _hold_stream(self, connection: Connection, question: Question, pause: float) -> None:
        body = self.body(question, stream=True, stream_options={"include_usage": True})
        while (status := await connection.begin("POST", COMPLETIONS, body)) == 429:
            await self._later(connection)
        self.tally.count(status)
        self._expect(status, 200, question)
        choices, usage = [_empty() for _ in question.said], None
        async for event in _events(connection):
            usage = event["usage"]
            for part in event["choices"]:
                _add(choices[part["index"]], part)
            await asyncio.sleep(pause) if pause else None
        self._compare(question, choices, usage)

    async def _answer(self, method: str, path: str, body: bytes, expected: int) -> bytes:
        """An answer with the expected status; asked again where the queue is full or the session is still in use."""
        while True:
            status, answer = await self.connection.ask(method, path, body)
            self.tally.count(status)
            if status not in (409, 429):
                self._expect(status, expected, f"{body[:500]!r}, answered {answer[:500]!r}")
                return answer
            await asyncio.sleep(AGAIN_SECONDS)

    async def _later(self, connection: Connection) -> None:
        self.tally.count(429)
        async for _ in connection.pieces():
            pass
        await asyncio.sleep(AGAIN_SECONDS)

    def _expect(self, status: int, expected: int, asked: object) -> None:
        if status != expected:
            raise Differs(f"{asked}: status {status}, expected {expected}")

    def _compare(self, question: Question, choices: Sequence[dict[str, Any]], usage: dict[str, Any] | None) -> None:
        found = [(each["text"], each["finish_reason"]) for each in choices]
        expected = [(said.text, said.reason) for said in question.said]
        if found != expected:
            raise Differs(f"{question.fields}: answered {found}, and alone {expected}")
        counted = usage and (usage["prompt_tokens"], usage["completion_tokens"])
        if counted != (question.prompt_tokens, sum(said.tokens for said in question.said)):
            raise Differs(f"{question.fields}: the usage is {usage}, and alone {question.said}")
        for said, each in zip(question.said, choices, strict=True):
            told = each["logprobs"] and each["logprobs"]["token_logprobs"]
            if not _near(said.logprobs, told):
                raise Differs(f"{question.fields}: log probabilities are {told}, and alone {said.logprobs}")


def _near(expected: Sequence[float] | None, found: Sequence[float] | None) -> bool:
    if expected is None or found is None:
        return expected is found
    return len(expected) == len(found) and all(abs(a - b) <= NEAR for a, b in zip(expected, found, strict=True))


def _empty() -> dict[str, Any]:
    return {"text": "", "finish_reason": None, "logprobs": None}


def _add(choice: dict[str, Any], part: dict[str, Any]) -> None:
    choice["text"] += part["text"]
    choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
    if part["logprobs"] is not None:
        held = choice["logprobs"] or {"token_logprobs": []}
        choice["logprobs"] = {"token_logprobs": held["token_logprobs"] + part["logprobs"]["token_logprobs"]}


async def _events(connection: Connection) -> AsyncIterator[dict[str, Any]]:
    """Server-sent events, which may come in any pieces."""
    held = b""
    async for piece in connection.pieces():
        *whole, held = (held + piece).split(b"\n\n")
        for event in whole:
            if event.startswith(b"data: {"):
                yield msgspec.json.decode(event[6:])
