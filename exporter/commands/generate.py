"""``seqexport generate``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seqexport.exporter.commands.options import (
    backend_option,
    bundle_argument,
    device_option,
    no_plugins_option,
    original_option,
    source_of,
    threads_option,
)

if TYPE_CHECKING:
    from seqexport.runtimes.base import Runner
    from seqexport.runtimes.generate import Sampling
    from seqexport.runtimes.tokenizer import BundleTokenizer


@click.command("generate", short_help="Generate text from a bundle.")
@bundle_argument
@click.option("--prompt", "prompts", multiple=True, required=True, help="Text to continue; may be given several times.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=128, show_default=True, help="Stop after so many.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0: always the likeliest token.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Choose among the K likeliest; 0: all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Choose among the likeliest that reach P.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same text.")
@backend_option
@device_option
@threads_option
@no_plugins_option
@original_option
def command(
    bundle: Path,
    prompts: tuple[str, ...],
    max_new_tokens: int,
    backend: str,
    device: str,
    threads: int | None,
    no_plugins: bool,
    original: str | None,
    **sampling: float,
) -> None:
    """Continue one or more prompts. Several run as one batch, and each gives exactly what it gives alone.

    \b
    Examples:
      seqexport generate my-model --prompt "Return the "
      seqexport generate my-model --prompt "def " --temperature 0.8 --top-p 0.95 --seed 7
      seqexport generate my-model --prompt "One" --prompt "Another, longer one"
    """
    from seqexport.runtimes.backends import open_runner
    from seqexport.runtimes.bundle import open_bundle
    from seqexport.runtimes.generate import Sampling
    from seqexport.runtimes.tokenizer import BundleTokenizer

    opened = open_bundle(bundle)
    tokenizer = BundleTokenizer(opened)
    source = source_of(original, opened.manifest.source.model) if backend == "torch" else None
    options = {"device": device, "threads": threads, "source": source, "no_plugins": no_plugins}
    with open_runner(backend, opened, **options) as runner:  # type: ignore[arg-type]
        _print_continuations(runner, tokenizer, prompts, max_new_tokens, Sampling(**sampling))  # type: ignore[arg-type]


def _print_continuations(
    runner: Runner, tokenizer: BundleTokenizer, prompts: tuple[str, ...], max_new_tokens: int, sampling: Sampling
) -> None:
    from seqexport.runtimes.generate import generate

    ids = [tokenizer.encode(prompt) for prompt in prompts]
    streams = [tokenizer.stream(after=each) for each in ids]
    pieces = [[prompt] for prompt in prompts]
    live = len(prompts) == 1

    def show(row: int, piece: str) -> None:
        pieces[row].append(piece)
        if live:
            sys.stdout.write(piece)
            sys.stdout.flush()

    if live:
        sys.stdout.write(prompts[0])
    try:
        generate(
            runner,
            ids,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            on_token=lambda row, token: show(row, streams[row].push(token)),
        )
        for row, stream in enumerate(streams):
            show(row, stream.finish())
    finally:
        if live:
            print()
    if live:
        return
    for number, parts in enumerate(pieces, 1):
        print(f"--- {number} ---\n{''.join(parts)}")
