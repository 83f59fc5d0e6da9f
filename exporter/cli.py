"""``seqexport``: one command takes a PyTorch sequence model to a file that runs anywhere, and proves it."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

import click
from rich.markup import escape

from seqexport.exporter.flags import flags
from seqexport.plugins.errors import UserError
from seqexport.plugins.publish import give_up_all
from seqexport.runtimes.encoding import readable, replace_unencodable
from seqexport.runtimes.tables import open_console

COMMANDS = (
    "onnx",
    "build",
    "verify",
    "generate",
    "serve",
    "package",
    "tokens",
    "compare",
    "bench",
    "inspect",
    "plugins",
    "doctor",
)

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name)]
"""What interrupts a command; Windows has no SIGALRM."""

TRACEBACK = "SEQEXPORT_TRACEBACK"
"""The environment variable that shows where an unforeseen error came from."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Why standard output takes no more."""

AGAIN_SECONDS = 0.5
"""After which an interrupt that was not heard is raised again."""


class Commands(click.Group):
    """Loads a command's module when the command is used or listed; none imports torch before it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"seqexport.exporter.commands.{name}")
        command: click.Command = module.command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="seqexport", prog_name="seqexport")
def cli() -> None:
    """Export Mamba, Transformer and hybrid models from PyTorch to ONNX, and prove the result.

    \b
    Start here:
      seqexport onnx --model CHECKPOINT -o my-model    export a Hugging Face checkpoint
      seqexport generate my-model --prompt "Hello"     text from the exported file
      seqexport compare my-model -o report.html        accuracy and speed against PyTorch
    """


def main() -> NoReturn:
    """The console entry point: whatever fails is one line and exit code 2, an interrupt 130."""
    for signum in SIGNALS:
        signal.signal(signum, _interrupt)
    sys.unraisablehook = _unraisable
    replace_unencodable()
    sys.argv = [readable(argument) for argument in sys.argv]
    code = 0
    try:
        code = _run()
    except UserError as error:
        _fail(flags(str(error)), 2)
    except UnicodeEncodeError as error:
        _fail(f"{error.object!r} cannot be a name in this locale ({error.encoding}): choose one of UTF-8", 2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _end_uninterrupted()
        _fail("interrupted; nothing was left half written", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except BaseException as error:  # a panic in Rust is no Exception
        _fail(_last_resort(error), 2)
    finally:
        _again_after(0)
    sys.exit(code)


def _run() -> int:
    """The command's exit code, after all that it said is written."""
    code: int | str | None = 0
    try:
        os.getcwd()
    except OSError as error:  # libraries would end the process
        raise UserError("the working folder is not there any more; change into one that is") from error
    try:
        try:
            cli(standalone_mode=False)
        except SystemExit as left:
            code = left.code
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again when it ends
        raise UserError(f"standard output: cannot be written ({error.strerror})") from error
    return code if isinstance(code, int) else int(code is not None)


def _last_resort(error: BaseException) -> str:
    """What nobody has foreseen, in a line."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    if isinstance(error, MemoryError):
        return "out of memory; give less to do at a time, or use a machine with more"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; for the place in the program set {TRACEBACK}=1"
    return f"unforeseen {type(error).__name__}: {error}; for the place in the program set {TRACEBACK}=1"


def _interrupt(signum: int, frame: object) -> None:
    """Raise KeyboardInterrupt, again and again until it is heard: one that lands in a destructor is lost."""
    if isinstance(sys.exc_info()[1], (KeyboardInterrupt, click.Abort)):
        return
    _again_after(AGAIN_SECONDS)
    raise KeyboardInterrupt


def _end_uninterrupted() -> None:
    """An interrupt may have cut off what removes half-written files; no other one may."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    give_up_all()


def _again_after(seconds: float) -> None:
    """Windows has no timer for it: an interrupt that is lost there has to be sent again."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    if not issubclass(lost.exc_type, KeyboardInterrupt):  # which comes again
        sys.__unraisablehook__(lost)


def _fail(message: str, code: int) -> NoReturn:
    line = escape(" ".join(message.split()))
    with suppress(OSError):  # nobody can be told
        open_console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {line}", highlight=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
