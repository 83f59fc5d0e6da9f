"""Times a server: streams at once, of the engine alone and over HTTP from a process of its own.

    python -m seqexport.runtimes.benchmarks.serve_speed BUNDLE [--backend ort] [--device cuda] [--streams 1,64]
                                                       [--tokens 256] [--rounds 3] [-o FILE]

Every stream continues the same 32 tokens, greedily, to the last of ``--tokens`` (bundles whose answers end sooner have
fewer). Tokens/s are of all streams together, from the first request to the last token. A gap is the time between two
chunks of one stream, which over HTTP may have several tokens where the reader is slower than the model. Of the rounds,
the one with the median of tokens/s is told.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from seqexport.plugins.errors import UserError
from seqexport.runtimes.backends import backend_named
from seqexport.runtimes.benchmarks.cli import run, tell
from seqexport.runtimes.benchmarks.server_process import server_process
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.machine import this_machine
from seqexport.runtimes.output import require_writable
from seqexport.runtimes.serve.engine import Engine
from seqexport.runtimes.serve.requests import End, Event, Limits, Request
from seqexport.runtimes.tokenizer import BundleTokenizer

PROMPT = 32
WARM = 16


class Stream:
    """When each chunk of a stream came, and how many tokens it had in the end."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.tokens = 0
        self.done = threading.Event()

    def take(self, event: Event) -> None:
        self.times.append(time.perf_counter())
        if isinstance(event, End):
            self.times.pop()
            self.tokens = event.usage.answer
            self.done.set()


def told(streams: Sequence[Stream], began: float) -> dict[str, Any]:
    """Tokens/s of all, and seconds: to the first chunk, and of the gaps between chunks (median, 99th of 100)."""
    gaps = np.concatenate([np.diff(stream.times) for stream in streams])
    if not gaps.size:
        raise UserError("every stream came in one piece, which has no gaps; give more --tokens")
    ended = max(stream.times[-1] for stream in streams)
    return {
        "streams": len(streams),
        "tokens": sum(stream.tokens for stream in streams),
        "tokens_per_second": sum(stream.tokens for stream in streams) / (ended - began),
        "first": float(np.median([stream.times[0] - began for stream in streams])),
        "gap_median": float(np.median(gaps)),
        "gap_p99": float(np.quantile(gaps, 0.99)),
    }


def of_engine(engine: Engine, prompt: Sequence[int], streams: int, tokens: int) -> dict[str, Any]:
    """Without HTTP."""
    found = [Stream() for _ in range(streams)]
    began = time.perf_counter()
    engine.submit([Request(prompt, tokens) for _ in found], [stream.take for stream in found])
    for stream in found:
        stream.done.wait()
    return told(found, began)


async def _read(port: int, body: bytes, stream: Stream) -> None:
    """One stream of server-sent events, read line by line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    status = await reader.readline()
    if b" 200 " not in status:
        raise UserError(f"the server answered {status.decode().strip()}")
    async for line in reader:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if event["usage"] is not None:
                stream.tokens = event["usage"]["completion_tokens"]
            elif event["choices"][0]["finish_reason"] is None:
                stream.times.append(time.perf_counter())
    writer.close()


async def _of_server(port: int, model: str, prompt: Sequence[int], streams: int, tokens: int) -> dict[str, Any]:
    asked = {"model": model, "prompt": list(prompt), "max_tokens": tokens, "temperature": 0}
    body = json.dumps(asked | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    found = [Stream() for _ in range(streams)]
    began = time.perf_counter()
    await asyncio.gather(*(_read(port, body, stream) for stream in found))
    return told(found, began)


def measure(
    bundle: Bundle, backend: str, options: dict[str, Any], streams: Sequence[int], tokens: int, rounds: int
) -> dict[str, Any]:
    """Of the engine and of the server, for each number of streams, each after a short run that is not counted.

    Args:
        options: of the backend, as ``threads``.
    """
    limits = Limits(max_batch=max(streams), max_tokens=PROMPT + tokens, prefix_bytes=0)
    prompt = np.random.default_rng(0).integers(1, bundle.manifest.vocab_size, PROMPT).tolist()
    found: dict[str, Any] = {"bundle": bundle.name, **options}
    with backend_named(backend).open_for_server(bundle, **options) as runner:
        found["runner"] = runner.description
        with Engine(runner, BundleTokenizer(bundle), limits) as engine:
            asked = lambda n, t: of_engine(engine, prompt, n, t)  # noqa: E731
            found["engine"] = [_middle(asked, n, tokens, rounds) for n in streams]
    sizes = {"max-batch": max(streams), "max-tokens": PROMPT + tokens, "prefix-bytes": 0}
    words = [
        word for name, value in {"backend": backend, **sizes, **options}.items() for word in (f"--{name}", str(value))
    ]
    with server_process(bundle.path, *words) as server:
        ask = lambda n, t: asyncio.run(_of_server(server.port, bundle.name, prompt, n, t))  # noqa: E731
        found["server"] = [_middle(ask, n, tokens, rounds) for n in streams]
    return found


def _middle(call: Callable[[int, int], dict[str, Any]], streams: int, tokens: int, rounds: int) -> dict[str, Any]:
    call(streams, WARM)
    measured = sorted((call(streams, tokens) for _ in range(rounds)), key=lambda each: each["tokens_per_second"])
    return measured[rounds // 2]


def lines(found: dict[str, Any]) -> list[str]:
    """What ``measure`` gave, for people."""
    return [_line(way, each, found[way][0]) for way in ("engine", "server") for each in found[way]]


def _line(way: str, each: dict[str, Any], first: dict[str, Any]) -> str:
    faster = each["tokens_per_second"] / first["tokens_per_second"]
    return (
        f"{way}: {each['streams']} streams, {each['tokens_per_second']:.0f} tokens/s ({faster:.1f}x), first after "
        f"{each['first'] * 1e3:.0f} ms, gaps {each['gap_median'] * 1e3:.1f} ms, p99 "
        f"{each['gap_p99'] / each['gap_median']:.1f}x"
    )


def _numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    numbers = [int(each) for each in value.split(",") if each.isdecimal()]
    if len(numbers) != value.count(",") + 1 or 0 in numbers:
        raise click.BadParameter(f"{value!r}: expected numbers from 1 on, with commas between")
    return numbers


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", default="ort", show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="As for `seqexport serve`.")
@click.option("--threads", type=click.IntRange(1), help="As for `seqexport serve`.")
@click.option("--streams", default="1,64", show_default=True, callback=_numbers, help="Numbers, with commas between.")
@click.option("--tokens", type=click.IntRange(2), default=256, show_default=True, help="Of an answer.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON, which is printed otherwise.")
def main(
    bundle: Path,
    backend: str,
    streams: list[int],
    tokens: int,
    rounds: int,
    output: Path | None,
    **options: Any,
) -> None:
    if output is not None:
        require_writable(output)
    given = {name: value for name, value in options.items() if value is not None}
    found = measure(open_bundle(bundle), backend, given, streams, tokens, rounds)
    for line in lines(found):
        click.echo(line, err=True)
    tell({"machine": this_machine(), **found}, output)


if __name__ == "__main__":
    run(main)
