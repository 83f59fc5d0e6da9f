"""Times a session that goes on beside reading its text again, over HTTP from a process of its own.

    python -m seqexport.runtimes.benchmarks.serve_resume BUNDLE... [--tokens 4096] [--sessions 9] [-o FILE]

A time counts from a request to its whole answer of one token; medians, one for each session. ``prefill`` reads a text
of ``--tokens``, or a few less, in a new session; nothing is known of it. The others read one token more there: from
``memory``; from its ``file`` after the server was started again; and ``swapped``, from its file where memory has no
room, so that the one before it is written to its own before the answer ends.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from seqexport.plugins.errors import UserError
from seqexport.runtimes.benchmarks.cli import run, tell
from seqexport.runtimes.benchmarks.server_process import server_process
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.machine import this_machine
from seqexport.runtimes.output import require_writable
from seqexport.runtimes.tokenizer import BundleTokenizer

WANTED = 0.1
"""Of the time of reading the text again, that going on shall take at most."""

TEXT = "The state of a sequence is all that a model remembers of it. "
ROOM = 64
"""Tokens that a session may have beyond its text."""


class Client:
    """One connection that is kept alive."""

    def __init__(self, port: int, model: str) -> None:
        self._connection, self._model = http.client.HTTPConnection("127.0.0.1", port, timeout=600), model

    def close(self) -> None:
        self._connection.close()

    def session(self) -> str:
        """The id of a new one."""
        return str(self._asked("/v1/sessions", {})["id"])

    def complete(self, prompt: str, **fields: Any) -> dict[str, Any]:
        """One token more; the usage."""
        asked = {"model": self._model, "prompt": prompt, "max_tokens": 1, "temperature": 0, **fields}
        usage: dict[str, Any] = self._asked("/v1/completions", asked)["usage"]
        return usage

    def _asked(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        self._connection.request("POST", path, json.dumps(fields), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status not in (200, 201):
            raise UserError(f"the server answered {answer.status}: {body[:500].decode(errors='replace')}")
        found: dict[str, Any] = json.loads(body)
        return found


def measure(bundle: Bundle, tokens: int, sessions: int) -> dict[str, Any]:
    """Seconds of each way, and what share of ``prefill`` they are.

    Raises:
        UserError: the bundle does not take so many tokens.
    """
    text = _text(bundle, tokens)
    with tempfile.TemporaryDirectory() as folder:
        options = ("--max-tokens", str(tokens + ROOM), "--prefix-bytes", "0", "--session-dir", folder)
        roomy = (*options, "--session-bytes", str(1 << 40))
        with _client(bundle, *roomy) as client:
            client.complete(text)
            names = [client.session() for _ in range(sessions)]
            times = {"prefill": _each(client, names, text), "memory": _each(client, names, "a")}
            read = client.complete(text)["prompt_tokens"]
        for way, limits in (("file", roomy), ("swapped", (*options, "--session-bytes", "0"))):
            with _client(bundle, *limits) as client:
                client.complete("warm")
                times[way] = _each(client, names, "a")
    seconds = {way: statistics.median(each) for way, each in times.items()}
    shares = {way: seconds[way] / seconds["prefill"] for way in seconds if way != "prefill"}
    return {"bundle": bundle.name, "tokens": read, "seconds": seconds, "shares": shares}


def lines(found: dict[str, Any]) -> list[str]:
    """What ``measure`` gave, for people."""
    seconds = found["seconds"]
    first = f"{found['bundle']}, {found['tokens']} tokens: prefill {seconds['prefill'] * 1e3:.1f} ms"
    return [first] + [
        f"  {way}: {seconds[way] * 1e3:.1f} ms, {share:.1%} (wanted: {WANTED:.0%})"
        for way, share in found["shares"].items()
    ]


def _each(client: Client, names: Sequence[str], prompt: str) -> list[float]:
    """Seconds of one request in each session."""
    times = []
    for name in names:
        began = time.perf_counter()
        client.complete(prompt, session_id=name)
        times.append(time.perf_counter() - began)
    return times


@contextmanager
def _client(bundle: Bundle, *options: str) -> Iterator[Client]:
    with server_process(bundle.path, *options) as server:
        client = Client(server.port, bundle.name)
        try:
            yield client
        finally:
            client.close()


def _text(bundle: Bundle, tokens: int) -> str:
    tokenizer = BundleTokenizer(bundle)
    of_one = len(tokenizer.encode(TEXT, special_tokens=False))
    return tokenizer.decode(tokenizer.encode(TEXT * (tokens // of_one + 1), special_tokens=False)[:tokens])


@click.command()
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--tokens", type=click.IntRange(1), default=4096, show_default=True)
@click.option("--sessions", type=click.IntRange(1), default=9, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON, which is printed otherwise.")
def main(bundles: tuple[Path, ...], tokens: int, sessions: int, output: Path | None) -> None:
    if output is not None:
        require_writable(output)
    measured = []
    for path in bundles:
        measured.append(found := measure(open_bundle(path), tokens, sessions))
        for line in lines(found):
            click.echo(line, err=True)
    told = {"machine": this_machine(), "sessions": sessions, "wanted": WANTED, "measured": measured}
    tell(told, output)


if __name__ == "__main__":
    run(main)
