"""``seqexport doctor``"""

from __future__ import annotations

import importlib.metadata
import sys
from contextlib import suppress
from dataclasses import dataclass

import click
from packaging.version import Version
from rich.markup import escape

from seqexport.plugins import library, toolchain
from seqexport.plugins.errors import UserError
from seqexport.plugins.library import Built
from seqexport.runtimes import cublas
from seqexport.runtimes.backends import backends
from seqexport.runtimes.nvidia import gpus
from seqexport.runtimes.tables import FittedTable, open_console

EXPORT = ("torch", "transformers", "onnx", "onnxscript", "onnx-ir")
SERVER = ("fastapi", "prometheus_client", "uvicorn")


@dataclass(frozen=True)
class Finding:
    """One thing that seqexport can use; ``advice`` says what to install where it is missing."""

    name: str
    works: bool
    detail: str
    advice: str = ""


@click.command("doctor", short_help="Show which backends work here, and what is missing.")
def command() -> None:
    """Show which parts of seqexport work on this machine, which do not, and what to install.

    \b
    Example:
      seqexport doctor
    """
    title = f"seqexport {library.version()}, Python {sys.version.split()[0]}"
    table = FittedTable(title=title, title_justify="left")
    for name in ("", "part", "found", "to install"):
        table.add_column(name)
    parts = (
        _needs("export", EXPORT, "export"),
        *_backends(),
        _needs("comparison page", ("matplotlib",), "report"),
        _needs("server", SERVER, "serve"),
    )
    machine = (*_onnxruntime(), _torch_cuda(), _gpu(), _tensorrt(), *_tools(), *_libraries())
    for finding in (*parts, *machine):
        mark = "[green]✓[/]" if finding.works else "[yellow]–[/]"
        advice = "" if finding.works else finding.advice
        table.add_row(mark, finding.name, escape(finding.detail), escape(advice))
    open_console().print(table)


def _version(package: str) -> str | None:
    """Of the first that is installed among packages that bring the same: name and version."""
    for name in package.split(" or "):
        with suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}"
    return None


def _needs(name: str, packages: tuple[str, ...], extra: str) -> Finding:
    versions = {package: _version(package) for package in packages}
    missing = [package for package, version in versions.items() if version is None]
    detail = f"missing: {', '.join(missing)}" if missing else ", ".join(filter(None, versions.values()))
    return Finding(name, not missing, detail, f"pip install 'seqexport[{extra}]'")


def _backends() -> list[Finding]:
    return [_needs(f"backend {each.name}", each.packages, each.extra) for each in backends().values()]


def _onnxruntime() -> list[Finding]:
    try:
        import onnxruntime as ort
    except Exception as error:
        return [Finding("ONNX Runtime", False, f"not importable: {error}", "pip install 'seqexport[ort]'")]
    providers = ort.get_available_providers()
    gpu = "CUDAExecutionProvider" in providers
    return [
        Finding("ONNX Runtime on CPU", True, _ops()),
        Finding(
            "ONNX Runtime on CUDA",
            gpu,
            "CUDAExecutionProvider" if gpu else "this build has no CUDA provider",
            "pip uninstall onnxruntime; pip install 'seqexport[ort-gpu]'",
        ),
    ]


def _ops() -> str:
    """What computes our ops on the CPU."""
    from seqexport.runtimes.ort.library import OpsLibrary

    try:
        return str(OpsLibrary.for_graph({}, "cpu", plugins=True))
    except UserError as error:
        return str(error)


def _torch_cuda() -> Finding:
    advice = "a CUDA build of PyTorch: https://pytorch.org/get-started"
    try:
        import torch
    except Exception as error:
        return Finding("PyTorch on CUDA", False, f"not importable: {error}", advice)
    works = torch.cuda.is_available()
    return Finding(
        "PyTorch on CUDA", works, f"torch {torch.__version__}" + ("" if works else ", no CUDA device"), advice
    )


def _gpu() -> Finding:
    try:
        found = "; ".join(", ".join(each) for each in gpus("driver_version"))
    except UserError as error:
        return Finding("NVIDIA GPU", False, str(error), "an NVIDIA driver")
    return Finding("NVIDIA GPU", True, found)


def _tensorrt() -> Finding:
    version = toolchain.tensorrt_version()
    return Finding("TensorRT", bool(version), version or "not installed", "pip install tensorrt, or JetPack")


def _tools() -> list[Finding]:
    tools = toolchain.find_toolchain()
    return [Finding(tool.name, tool.path is not None, tool.found, tool.advice) for tool in tools.all]


def _libraries() -> list[Finding]:
    try:
        built = library.built()
    except UserError as error:
        return [Finding("plugin libraries", False, str(error), library.BUILD), _cublas(None)]
    libraries = [_library(file, built.get(name)) for name, file in library.FILES.items()]
    return [*libraries, _cublas(built.get("tensorrt"))]


def _library(file: str, entry: Built | None) -> Finding:
    if entry is None:
        return Finding(file, False, "not built", library.BUILD)
    return Finding(file, entry.fault is None, entry.fault or str(entry.path), library.BUILD)


def _cublas(plugins: Built | None) -> Finding:
    """That of the CUDA which our TensorRT plugins were built for, if there is a choice."""
    cuda = plugins.built_for.get("cuda", "0") if plugins is not None else "0"
    place = cublas.load(Version(cuda).major)
    return Finding("cuBLASLt", place is not None, place or f"not {cublas.PLACES}", cublas.INSTALL)
