"""``seqexport plugins build`` and ``seqexport plugins list``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape

from seqexport.plugins import library
from seqexport.runtimes.tables import FittedTable, open_console

if TYPE_CHECKING:
    from seqexport.plugins.build import Build, Found
    from seqexport.plugins.library import Built
    from seqexport.plugins.toolchain import Toolchain

PURPOSE = {
    "kernels": "PyTorch on CUDA runs the ops with it",
    "tensorrt": "TensorRT plugins",
    "onnxruntime": "ONNX Runtime custom ops",
}
INSTALL = {
    "tensorrt": "TensorRT (JetPack, apt or tar bring its headers), or give --tensorrt-include",
    "onnxruntime": "ONNX Runtime's release archive, or give --onnxruntime-include",
}
folder_type = click.Path(path_type=Path)


@click.group("plugins", short_help="Compile the CUDA kernels and plugins, show which are built.")
def command() -> None:
    """Compile the CUDA kernels and the plugins of TensorRT and ONNX Runtime for this machine, and show what is built.

    \b
    Examples:
      seqexport plugins build
      seqexport plugins list
    """


@command.command("build", short_help="Compile the libraries with this machine's CUDA and headers.")
@click.option("--cuda-arch", metavar="LIST", help="Such as 87 or 80,90; default: the GPU in this machine, else the "
              "usual ones.")  # fmt: skip
@click.option("--tensorrt-include", metavar="DIR", type=folder_type, help="TensorRT's headers; default: searched for.")
@click.option("--onnxruntime-include", metavar="DIR", type=folder_type,
              help="ONNX Runtime's headers; default: searched for.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), help="Compilers at a time; default: by cores and memory.")
@click.option("--output", metavar="DIR", type=folder_type, help="Where the libraries go; default: where seqexport "
              "looks for them.")  # fmt: skip
def build(
    cuda_arch: str | None,
    tensorrt_include: Path | None,
    onnxruntime_include: Path | None,
    jobs: int | None,
    output: Path | None,
) -> None:
    """Compile the libraries from the sources that seqexport brings: the CUDA kernels, the TensorRT plugins and the
    ONNX Runtime custom ops, each where this machine has what it needs. Afterwards seqexport finds them by itself.

    Headers are looked for where the system has them, then in ~/.cache/seqexport/headers, then on the projects' GitHub.

    \b
    Examples:
      seqexport plugins build
      seqexport plugins build --cuda-arch 87 --tensorrt-include /opt/TensorRT-10.3/include
    """
    from seqexport.plugins.build import Build, Options, parse_architectures
    from seqexport.plugins.toolchain import find_toolchain

    options = Options(parse_architectures(cuda_arch), tensorrt_include, onnxruntime_include, jobs, output)
    console, tools = open_console(), find_toolchain()
    _show_tools(console, tools)
    work = Build(options, tools)
    with work.locked():
        found = _configure(console, work)
        _compile(console, work)
        libraries = work.install(found)
    _show_built(console, libraries, found, output)


@command.command("list", short_help="Show which libraries are built, and what for.")
def list_libraries() -> None:
    """Show the three libraries: whether each is built, where it is, what it was built for, and whether it is intact.

    \b
    Example:
      seqexport plugins list
    """
    built = library.built()
    table = FittedTable(title=escape(f"Plugin libraries in {library.folder()}"), title_justify="left")
    for name in ("", "library", "built for", "size", "state"):
        table.add_column(name)
    for name, file in library.FILES.items():
        entry = built.get(name)
        if entry is None:
            table.add_row("[yellow]–[/]", file, "", "", "not built: seqexport plugins build")
            continue
        fault = entry.fault
        mark, state = ("[red]✗[/]", escape(fault)) if fault else ("[green]✓[/]", f"seqexport {entry.seqexport}, intact")
        table.add_row(mark, escape(entry.path.name), escape(_built_for(entry)), "" if fault else _size(entry), state)
    open_console().print(table)


def _show_tools(console: Console, tools: Toolchain) -> None:
    for tool in tools.all:
        advice = "" if tool.path else f"; to install: {tool.advice}"
        _line(console, tool.name, tool.found + advice)


def _configure(console: Console, work: Build) -> Found:
    from seqexport.plugins.errors import UserError

    with console.status("configuring …"):
        found = work.configure()
    for name, where in found.headers.items():
        _line(console, f"{name} headers", where)
    if architectures := found.versions["architectures"]:
        why = (
            "as asked" if work.options.architectures else "this GPU" if work.architectures else "no GPU here: the usual"
        )
        _line(console, "architectures", f"{architectures.replace(';', ', ')} ({why})")
    if not found.libraries:
        nvcc = work.tools.nvcc
        raise UserError(f"{nvcc.name}: {nvcc.found}, and nothing can be built without it; install {nvcc.advice}")
    return found


def _compile(console: Console, work: Build) -> None:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("compiling"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
               TextColumn("{task.description}"))  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=1.0)
        work.compile(lambda share, what: progress.update(task, completed=share, description=escape(Path(what).name)))
        progress.update(task, completed=1.0, description="")


def _show_built(console: Console, libraries: list[Built], found: Found, output: Path | None) -> None:
    for entry in libraries:
        _line(console, entry.name, f"{entry.path}  {_size(entry)}, {_built_for(entry)}")
    for name in (name for name in library.FILES if name not in found.libraries):
        needs_cuda = name != "onnxruntime" and not found.versions["cuda"]
        advice = "the CUDA Toolkit, whose nvcc is missing" if needs_cuda else INSTALL.get(name, "")
        _line(console, name, f"not built ({PURPOSE[name]}); it needs {advice}")
    if output is not None and not _is_searched(output):
        _line(console, "to use them", f"export SEQEXPORT_PLUGINS={output.expanduser().absolute()}")


def _is_searched(output: Path) -> bool:
    from seqexport.plugins.errors import UserError

    try:
        return output.expanduser().absolute() == library.folder().absolute()
    except UserError:  # no folder is
        return False


def _line(console: Console, name: str, text: str) -> None:
    console.print(f"[dim]{name:20}[/] {escape(text)}", soft_wrap=True, highlight=False)


def _built_for(entry: Built) -> str:
    words = {"cuda": "CUDA", "architectures": "sm", "tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime"}
    return ", ".join(f"{words.get(k, k)} {v.replace(';', ' ')}" for k, v in entry.built_for.items())


def _size(entry: Built) -> str:
    return f"{entry.path.stat().st_size / 1e6:,.1f} MB"
