"""``seqexport tokens``"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from seqexport.exporter.commands.options import bundle_argument
from seqexport.plugins.errors import UserError
from seqexport.runtimes.encoding import shown

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""What it reads of a bundle; the weights need not be there."""

BETWEEN = re.compile(rb"[\s,]+")
READ_BYTES = 1 << 16


@click.command("tokens", short_help="Text to tokens and back, for C and C++.")
@bundle_argument
@click.option("--prompt", metavar="TEXT", help="Print the tokens of this text.")
@click.option("--chat", is_flag=True, help="TEXT is a user's message: its tokens by the bundle's chat template.")
@click.option(
    "--no-special-tokens",
    "special_tokens",
    flag_value=False,
    default=True,
    type=bool,
    help="TEXT goes on after another: nothing that begins a text comes before it.",
)
@click.option("--decode", is_flag=True, help="Read tokens from stdin, and print their text as they come.")
def command(bundle: Path, prompt: str | None, chat: bool, special_tokens: bool, decode: bool) -> None:
    """The tokens of a text as `seqexport-run --tokens` takes them, or the text of tokens as it prints them.

    \b
    Examples:
      seqexport tokens my-llama --prompt "The state of a"
      seqexport tokens my-llama --prompt "What is a scan?" --chat
      seqexport-run my-llama --tokens=$(seqexport tokens my-llama --prompt Hi) | seqexport tokens my-llama --decode
    """
    from seqexport.runtimes.bundle import open_bundle
    from seqexport.runtimes.chat import chat_prompt
    from seqexport.runtimes.tokenizer import BundleTokenizer

    if (prompt is None) != decode:
        raise UserError("`prompt` or `decode`: give one of them")
    opened = open_bundle(bundle, check_files=FILES)
    tokenizer = BundleTokenizer(opened)
    if prompt is None:
        stream = tokenizer.stream()
        for token in _read_tokens(opened.manifest.vocab_size):
            _print(stream.push(token))
        _print(stream.finish() + "\n")
        return
    text = chat_prompt(opened, [{"role": "user", "content": prompt}]) if chat else prompt
    print(*tokenizer.encode(text, special_tokens=special_tokens and not chat), sep=",")


def _print(text: str) -> None:
    sys.stdout.write(shown(text))
    sys.stdout.flush()


def _read_tokens(vocab_size: int) -> Iterator[int]:
    """Numbers from stdin, between which is whitespace or a comma, each as soon as it is whole."""
    rest = b""
    while data := os.read(sys.stdin.fileno(), READ_BYTES):
        *whole, rest = BETWEEN.split(rest + data)
        yield from (_token(word, vocab_size) for word in whole if word)
    if rest:
        yield _token(rest, vocab_size)


def _token(word: bytes, vocab_size: int) -> int:
    if not word.isdigit() or len(word) > 18 or int(word) >= vocab_size:
        raise UserError(f"`decode`: token {word.decode('utf-8', 'replace')!r}: expected 0 to {vocab_size - 1}")
    return int(word)
