"""Requests that are refused, each with its status, and what anybody may look at."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from seqexport.runtimes.benchmarks.serve_load.answered import COMPLETIONS, SESSIONS, Client
from seqexport.runtimes.benchmarks.serve_load.tally import Differs

MOST_BODY = 4 << 20
WHOLE_OVERSIZED = 0.05
"""Of the oversized ones, those that are sent; the others only say their length."""

LOOKS = ("/health", "/ready", "/metrics", "/v1/models", "/openapi.json", "/")
MALFORMED: Sequence[bytes] = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe{}",
    b'{"model": "%s"}',
    b'{"model": "%s", "prompt": []}',
    b'{"model": "%s", "prompt": ""}',
    b'{"model": "%s", "prompt": {"a": 1}}',
    b'{"model": "%s", "prompt": [1, "two"]}',
    b'{"model": "%s", "prompt": [123456789]}',
    b'{"model": "%s", "prompt": "a", "n": 0}',
    b'{"model": "%s", "prompt": "a", "n": 129}',
    b'{"model": "%s", "prompt": "a", "max_tokens": 0}',
    b'{"model": "%s", "prompt": "a", "temperature": -1}',
    b'{"model": "%s", "prompt": "a", "temperature": NaN}',
    b'{"model": "%s", "prompt": "a", "top_p": "much"}',
    b'{"model": "%s", "prompt": "a", "stop": [""]}',
    b'{"model": "%s", "prompt": "a", "suffix": "b"}',
    b'{"model": "%s", "prompt": "a", "presence_penalty": 1}',
    b'{"model": "%s", "prompt": "' + b"long " * 4000 + b'"}',
    b"[" * 5000,
)


async def malformed(client: Client, drawn: random.Random) -> None:
    body = drawn.choice(MALFORMED).replace(b"%s", client.model.encode())
    await _refused(client, "POST", COMPLETIONS, body, 400)


async def garbled(client: Client, drawn: random.Random) -> None:
    """No HTTP at all."""
    client.connection.drop()
    await client.connection.send(drawn.choice([b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n"]))
    status = await client.connection.status()
    client.connection.drop()
    _expect(client, status, 400, "what is no HTTP")


async def oversized(client: Client, drawn: random.Random) -> None:
    connection = client.connection
    if drawn.random() < WHOLE_OVERSIZED:
        connection.drop()
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        await connection.send(connection.head("POST", COMPLETIONS, None) + piece * (MOST_BODY // 0x10000 + 1))
    else:
        await connection.send(connection.head("POST", COMPLETIONS, drawn.choice([MOST_BODY + 1, 10**18])))
    status = await connection.status()
    connection.drop()  # the rest of the body does not come
    _expect(client, status, 413, "an oversized body")


async def stranger(client: Client, drawn: random.Random) -> None:
    """With a wrong key."""
    method, path = drawn.choice([("POST", COMPLETIONS), ("POST", SESSIONS), ("GET", "/v1/models")])
    await _refused(client, method, path, client.body(drawn.choice(client.questions.single)), 401, key="guessed")


async def unknown(client: Client, drawn: random.Random) -> None:
    """What is not there."""
    question = drawn.choice(client.questions.single)
    name = f"{drawn.getrandbits(96):022x}"[:22]
    method, path, body = drawn.choice([
        ("POST", COMPLETIONS, msgspec.json.encode({"model": client.model, "prompt": "a", "session_id": name})),
        ("POST", COMPLETIONS, msgspec.json.encode({**question.fields, "model": name})),
        ("DELETE", f"{SESSIONS}/{name}", b""),
        ("GET", f"/v1/models/{name}", b""),
        ("GET", f"/{name}", b""),
    ])  # fmt: skip
    await _refused(client, method, path, body, 404)


async def look(client: Client, drawn: random.Random) -> None:
    await _refused(client, "GET", drawn.choice(LOOKS), b"", 200)


async def _refused(client: Client, method: str, path: str, body: bytes, expected: int, key: str | None = None) -> None:
    status, answer = await client.connection.ask(method, path, body, key)
    _expect(client, status, expected, f"{method} {path} {body[:200]!r}, answered {answer[:500]!r}")


def _expect(client: Client, status: int, expected: int, asked: str) -> None:
    client.tally.count(status)
    if status != expected:
        raise Differs(f"{asked}: status {status}, expected {expected}")
