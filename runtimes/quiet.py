"""Keeps the chatter and the tracebacks of transformers and the hub's client from the user."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from seqexport.plugins.errors import UserError


@contextmanager
def quiet() -> Iterator[None]:
    """No log line, warning or progress bar of torch, transformers or the hub's client reaches the user.

    Unless they asked for the debug log of ``seqexport``: then every log line does.
    """
    before = logging.root.manager.disable
    with warnings.catch_warnings(), _no_progress_bars():
        warnings.simplefilter("ignore")
        if not logging.getLogger("seqexport").isEnabledFor(logging.DEBUG):
            logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Of transformers and the hub's client, where they are installed."""
    try:
        from huggingface_hub.utils.tqdm import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )
        from transformers.utils import logging as transformers_logging
    except ImportError:
        yield
        return
    bars, hub_bars = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


_silences = 0
_silencing = threading.Lock()
_standard_error = -1


@contextmanager
def without_native_errors() -> Iterator[None]:
    """Nothing that is written to standard error reaches the user, for what is short: as Rust does when it panics.

    Of the process, whichever threads are in it.
    """
    global _silences, _standard_error
    with _silencing:
        if not _silences:
            _standard_error = _replace_standard_error()
        _silences += 1
    try:
        yield
    finally:
        with _silencing:
            _silences -= 1
            if not _silences and _standard_error >= 0:
                os.dup2(_standard_error, 2)
                os.close(_standard_error)


def _replace_standard_error() -> int:
    """By nothing; gives what it was, -1 where there is none."""
    try:
        before = os.dup(2)
    except OSError:
        return -1
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)
    return before


@contextmanager
def one_line(source: str, what: str) -> Iterator[None]:
    """Whatever is raised inside becomes a UserError of one line, with itself as its cause: a parser's panic too."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # that of a panic in Rust is no Exception
        raise UserError(f"{source}: {what}: {said(error)}") from error


def said(error: BaseException) -> str:
    """What an error says, in one line; its name where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (" ".join(str(error).split()) or type(error).__name__)[:240]
