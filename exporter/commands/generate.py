"""``seqexport generate``"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seqexport.exporter.commands.options import (
    backend_option,
    bundle_argument,
    device_option,
    original_option,
    plugins_option,
    threads_option,
)
from seqexport.plugins.errors import UserError
from seqexport.runtimes.encoding import shown
from seqexport.runtimes.output import require_writable

if TYPE_CHECKING:
    from seqexport.runtimes.model import Model


@click.command("generate", short_help="Generate text from a bundle.")
@bundle_argument
@click.option("--prompt", "prompts", multiple=True, help="Text to continue; may be given several times.")
@click.option("--chat", is_flag=True, help="PROMPT is a user's message; answer it by the bundle's chat template.")
@click.option("--system", metavar="TEXT", help="With --chat: what the system says before it.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=128, show_default=True, help="Stop after so many.")
@click.option("--temperature", type=float, help="0: always the likeliest token [default: 0].")
@click.option("--top-k", type=int, help="Choose among the K likeliest; 0: all [default: 0].")
@click.option("--top-p", type=float, help="Choose among the likeliest that reach P [default: 1].")
@click.option("--seed", type=int, help="The same seed gives the same text [default: 0].")
@click.option("--save", type=click.Path(path_type=Path), help="Write where the text ended to this file.")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on where a text ended.")
@backend_option
@device_option
@threads_option
@plugins_option
@original_option
def command(
    bundle: Path,
    prompts: tuple[str, ...],
    chat: bool,
    system: str | None,
    backend: str,
    device: str | None,
    threads: int | None,
    plugins: bool | None,
    original: str | None,
    save: Path | None,
    resume: Path | None,
    max_new_tokens: int,
    **sampling: Any,
) -> None:
    """Continue one or more prompts, or answer them with --chat. Several prompts to continue run as one batch, and each
    gives exactly what it gives alone.

    \b
    Examples:
      seqexport generate my-model --prompt "Return the "
      seqexport generate my-model --prompt "def " --temperature 0.8 --top-p 0.95 --seed 7
      seqexport generate my-model --prompt "One" --prompt "Another, longer one"
      seqexport generate my-model --prompt "Once " --save once.safetensors
      seqexport generate my-model --resume once.safetensors
      seqexport generate my-chat-model --chat --system "Be brief." --prompt "What is a scan?"
    """
    from seqexport.exporter.api import load

    if system is not None and not chat:
        raise UserError("`system`: only a chat has a system message; add `chat=True`")
    _check_prompts(prompts, chat, save, resume)
    given = {name: value for name, value in sampling.items() if value is not None} | {"max_new_tokens": max_new_tokens}
    options = {"device": device, "threads": threads, "plugins": plugins, "original": original}
    with load(bundle, backend, **options) as model:  # type: ignore[arg-type]
        if chat:
            _answer(model, prompts, system, given)
        elif save is not None or resume is not None:
            _go_on(model, prompts, save, resume, given)
        elif len(prompts) == 1:
            _print_live(chain(prompts, model.stream(prompts[0], **given)))
        else:
            texts = model.generate(prompts, **given)
            for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True), 1):
                print(f"--- {number} ---\n{shown(prompt + text)}")


def _check_prompts(prompts: Sequence[str], chat: bool, save: Path | None, resume: Path | None) -> None:
    if not prompts and resume is None:
        raise UserError("`prompt`: nothing to continue; give a text, or `resume` a session")
    if (save is not None or resume is not None) and (chat or len(prompts) > 1):
        raise UserError("`save` and `resume` go with one `prompt` to continue, and not with `chat`")
    if save is not None:
        require_writable(save)


def _go_on(model: Model, prompts: Sequence[str], save: Path | None, resume: Path | None, given: dict[str, Any]) -> None:
    with model.session() if resume is None else model.restore(resume) as session:
        _print_live(chain(prompts, model.resume(session, "".join(prompts), **given)))
        if save is not None:
            session.save(save)


def _answer(model: Model, prompts: Sequence[str], system: str | None, sampling: dict[str, Any]) -> None:
    before = [] if system is None else [{"role": "system", "content": system}]
    for number, prompt in enumerate(prompts, 1):
        answer = model.chat([*before, {"role": "user", "content": prompt}], **sampling)
        if len(prompts) > 1:
            print(f"--- {number} ---")
        _print_live(answer)


def _print_live(pieces: Iterable[str]) -> None:
    """Each piece as it comes, and a line's end whatever happens."""
    try:
        for piece in pieces:
            sys.stdout.write(shown(piece))
            sys.stdout.flush()
    finally:
        print()
