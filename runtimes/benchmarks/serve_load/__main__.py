"""Puts a server under a mixed load, and holds every answer to the one that the library gives alone.

    python -m seqexport.runtimes.benchmarks.serve_load BUNDLE [--requests 200000] [--connections 64] [-o FILE]

``seqexport serve`` runs in a process of its own, with room for few sessions in memory and few beginnings of prompts,
so that both move on. Connections ask one thing after another: whole answers and streams, of one and of several
prompts, with seeds, stop texts and log probabilities; sessions; what is malformed, oversized, without a key or unknown;
some read slowly, and some leave. Texts, ends and token counts have to be the same, log probabilities within 1e-4.

Memory is the server's resident memory, a sample each quarter of a second, after the first tenth of all requests. It
swings with the size of the running batch and with bodies on their way; what stays is its floor, which a tenth of the
samples is below. Drift is the floor of the last tenth of the samples over that of the first tenth, less 1. The program
ends with exit code 1 at the first answer that differs, at an error in the server's log, where requests are left in the
server, or where memory grew by more than 2 %.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import click
import psutil

from seqexport.runtimes.backends import open_runner
from seqexport.runtimes.benchmarks.cli import run, tell
from seqexport.runtimes.benchmarks.serve_load import refused
from seqexport.runtimes.benchmarks.serve_load.answered import Client
from seqexport.runtimes.benchmarks.serve_load.questions import Question, Questions
from seqexport.runtimes.benchmarks.serve_load.tally import Differs, Tally
from seqexport.runtimes.benchmarks.serve_load.wire import Connection
from seqexport.runtimes.benchmarks.server_process import ServerProcess, server_process
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.machine import this_machine
from seqexport.runtimes.output import require_writable

QUESTIONS = 400
LIMITS = ("--session-bytes", str(4 << 20), "--prefix-bytes", str(16 << 20))
MOST_DRIFT = 0.02
IDLE_SECONDS = 30.0
RUNNING = re.compile(rb"^seqexport_(?:running|queue_length) (\S+)$", re.MULTILINE)

Kind = Callable[[Client, random.Random], Awaitable[None]]
KINDS: dict[str, tuple[Kind, int]] = {
    "whole": (Client.whole, 26),
    "streamed": (Client.streamed, 18),
    "slow": (Client.slow, 1),
    "left": (Client.left, 8),
    "talk": (Client.talk, 6),
    "malformed": (refused.malformed, 12),
    "garbled": (refused.garbled, 2),
    "oversized": (refused.oversized, 6),
    "stranger": (refused.stranger, 6),
    "unknown": (refused.unknown, 6),
    "look": (refused.look, 6),
}
"""By name, with how often they come."""


async def load(
    server: ServerProcess, model: str, key: str, questions: Questions, tally: Tally, connections: int, seed: int
) -> None:
    """Ask until enough was asked, and until the server has nothing left of it.

    Raises:
        Differs: an answer does.
    """
    watching = asyncio.create_task(tally.watch(lambda: server.rss, _show))
    sessions: list[tuple[str, list[Question]]] = []
    clients = [Client(server.port, key, model, questions, tally, sessions) for _ in range(connections)]
    numbers = iter(range(tally.requests))
    try:
        await _all(_ask(client, numbers, seed) for client in clients)
        await _all(_end_talks(client, sessions, seed) for client in clients)
        await _idle(clients[0].connection)
    finally:
        watching.cancel()
        for client in clients:
            client.connection.drop()


async def _all(works: Any) -> None:
    """The first that fails ends the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask(client: Client, numbers: Any, seed: int) -> None:
    names, weights = list(KINDS), [weight for _, weight in KINDS.values()]
    while client.tally.left:
        number = next(numbers)
        drawn = random.Random(f"{seed} {number}")
        name = drawn.choices(names, weights)[0]
        client.tally.kinds[name] += 1
        try:
            await KINDS[name][0](client, drawn)
        except (OSError, EOFError, ValueError, asyncio.TimeoutError) as error:
            raise Differs(f"request {number}, {name}: the connection failed ({error!r})") from error
        except Differs as error:
            raise Differs(f"request {number}, {name}: {error}") from error


async def _end_talks(client: Client, sessions: Sequence[object], seed: int) -> None:
    while sessions:
        await client.end_talk(random.Random(seed))


async def _idle(connection: Connection) -> None:
    """Raises Differs: requests that nobody waits for are still in the server."""
    deadline = time.monotonic() + IDLE_SECONDS
    while True:
        _, text = await connection.ask("GET", "/metrics")
        if not any(float(value) for value in RUNNING.findall(text)):
            return
        if time.monotonic() > deadline:
            raise Differs(f"requests are left in the server {IDLE_SECONDS:g} s after the last: {RUNNING.findall(text)}")
        await asyncio.sleep(0.1)


def _show(tally: Tally) -> None:
    rate = tally.asked / tally.seconds
    rss = tally.memory[-1][1] / (1 << 20)
    click.echo(f"\r{tally.asked} of {tally.requests}, {rate:.0f} a second, {rss:.1f} MiB ", err=True, nl=False)


def measure(bundle: Bundle, requests: int, connections: int, seed: int, threads: int | None) -> dict[str, Any]:
    """Raises Differs: an answer does, or the server's log has an error."""
    with open_runner("ort", bundle, threads=threads) as runner:
        description, questions = runner.description, Questions(runner, seed, QUESTIONS)
    key, tally, own = secrets.token_hex(8), Tally(requests), psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        keys.write_text(f"{key}\n")
        options = ["--api-key-file", str(keys), "--session-dir", str(Path(folder) / "sessions"), *LIMITS]
        options += ["--threads", str(threads)] if threads else []
        with server_process(bundle.path, *options) as server:
            before, served = sum(own.cpu_times()[:2]), server.cpu_seconds
            asyncio.run(load(server, bundle.name, key, questions, tally, connections, seed))
            seconds = tally.seconds
            cpu = {"server": server.cpu_seconds - served, "client": sum(own.cpu_times()[:2]) - before}
            if faults := server.faults():
                raise Differs(f"the server's log has {len(faults)} errors, the first: {faults[0]}")
    return {
        "bundle": bundle.name,
        "runner": description,
        "seed": seed,
        "threads": threads,
        "connections": connections,
        "requests": tally.asked,
        "seconds": seconds,
        "requests_per_second": tally.asked / seconds,
        "cpu_seconds": cpu,
        "kinds": dict(tally.kinds),
        "statuses": dict(tally.statuses),
        "memory": tally.drift(),
    }


def line(found: dict[str, Any]) -> str:
    """What ``measure`` gave, for people."""
    return (
        f"{found['requests']} requests, {found['requests_per_second']:.0f} a second, none differs; memory "
        f"{found['memory']['drift']:+.2%} (wanted: at most {MOST_DRIFT:.0%})"
    )


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--requests", type=click.IntRange(1), default=200_000, show_default=True)
@click.option("--connections", type=click.IntRange(1), default=64, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Of the model, in the server and alone.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON, which is printed otherwise.")
def main(bundle: Path, requests: int, connections: int, seed: int, threads: int | None, output: Path | None) -> None:
    if output is not None:
        require_writable(output)
    try:
        found = measure(open_bundle(bundle), requests, connections, seed, threads)
    except Differs as error:
        click.echo(f"\ndiffers: {error}", err=True)
        raise SystemExit(1) from error
    click.echo(f"\n{line(found)}", err=True)
    tell({"machine": this_machine(), **found}, output)
    if found["memory"]["drift"] > MOST_DRIFT:
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
