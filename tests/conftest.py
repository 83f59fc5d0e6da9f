"""Tiny random checkpoints and exported bundles, each made once a session and never changed by a test."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import onnx_ir as ir
import pytest
import torch
from filelock import FileLock

from seqexport.exporter import pipeline
from seqexport.exporter.pipeline import ExportOptions, export
from seqexport.plugins import library
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.quiet import quiet
from tests import groups, native, order
from tests.exporter.families import EXPORTED, HEADS, JAMBA, MAMBA, SIZES, WINDOW, Build, of, save

os.environ.setdefault("SEQEXPORT_PLUGINS", str(native.FOLDER.with_name("none")))  # not what this user has built
torch.set_num_threads(1)  # tiny tensors: a second thread only waits

GEMMA = {**HEADS, "head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
KINDS = ["conv", "full_attention", "full_attention", "conv"]
CHECKPOINTS: dict[str, Build] = {
    **EXPORTED,
    "llama": of("Llama", **HEADS | {"head_dim": 8}, attention_bias=True),
    "gemma2": of("Gemma2", **GEMMA),
    "jamba": of("Jamba", **JAMBA, num_experts=1),
    "irregular": of("Lfm2", **{**SIZES, "hidden_size": 30, "num_hidden_layers": 4}, layer_types=KINDS),
    "untied": of("Mamba", **MAMBA | {"num_hidden_layers": 3}, tie_word_embeddings=False),
}
"""Most have heads of 8, where ONNX Runtime's own attention takes over in the target ``ort``; ``irregular`` of 10."""

Saved = Callable[[str], Path]
Exported = Callable[..., Bundle]
Trace = Callable[..., ir.Model]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--support", type=Path, metavar="FILE", help="run every case of every family; record what passed")


def pytest_configure(config: pytest.Config) -> None:
    if (file := config.getoption("--support")) is not None:
        from tests.support.records import Recorder

        config.pluginmanager.register(Recorder(file))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order.arrange(items)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The folder of a tiny random checkpoint, by its name in ``CHECKPOINTS``."""
    root = tmp_path_factory.mktemp("checkpoints")
    return functools.cache(lambda name: save(CHECKPOINTS[name], root / name))


@pytest.fixture(scope="session")
def trace_once() -> Trace:
    """``trace``, which traces a checkpoint, or a copy of it, once for all targets."""
    trace, graphs = pipeline.trace, dict[Any, ir.Model]()

    def once(model: Any, specs: Any, **options: Any) -> ir.Model:
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight  # whatever the config says
        key = (type(model), model.config.to_json_string(), tied, model.dtype, *options.values())
        if key not in graphs:
            graphs[key] = trace(model, specs, **options)
        return graphs[key].clone()

    return once


@pytest.fixture
def traced_once(trace_once: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of this test share their graphs with others of the same model; not for one that changes a model."""
    monkeypatch.setattr(pipeline, "trace", trace_once)


@pytest.fixture(scope="session")
def exported(checkpoint: Saved, tmp_path_factory: pytest.TempPathFactory, trace_once: Trace) -> Exported:
    """The bundle of a checkpoint or of a shipped model (``preset:mamba``), by the options of its export.

    All processes of a run share them, so that each is exported once.
    """
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "bundles"
    root.mkdir(exist_ok=True)

    @functools.cache
    def once(name: str, **options: Any) -> Bundle:
        folder = root / "-".join([name.replace(":", "-"), *(f"{key}={value}" for key, value in options.items())])
        with FileLock(f"{folder}.lock"):
            if folder.exists():
                return open_bundle(folder)
            model = name if name.startswith("preset:") else str(checkpoint(name))
            with quiet(), pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline, "trace", trace_once)
                return export(ExportOptions(model=model, **options), folder, lambda stage: nullcontext())

    return once


@pytest.fixture(scope="session")
def native_plugins() -> Path:
    """The folder of the plugin libraries that can be compiled here, made from this checkout."""
    if reason := native.missing_tools():
        leave_out(f"tests of compiled plugins left out: {reason}")
    return native.build_plugins()


@pytest.fixture(scope="session")
def native_library(native_plugins: Path) -> Callable[[str], Path]:
    """The file of the compiled library ``kernels``, ``tensorrt`` or ``onnxruntime``."""

    def file_of(name: str) -> Path:
        if (built := library.built(native_plugins).get(name)) is None:
            leave_out(f"tests of {library.FILES[name]} left out: {native.NEEDS[name]}")
        return built.path

    return file_of


@pytest.fixture(scope="session")
def descriptions(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """What the kernel library says of the ops and checks of their params, compiled without CUDA and the kernels."""
    compiled = native.compile_descriptions(tmp_path_factory.mktemp("descriptions") / "descriptions.so")
    return compiled or leave_out("tests of the ops' descriptions left out: no C++ compiler")


def leave_out(reason: str) -> NoReturn:
    """Skip the test; the reason is printed once, at the end."""
    pytest.skip(reason)


def leave_out_of_short_runs(what: str) -> None:
    """Skip the test unless every group is asked for: it takes minutes of compiling or searching."""
    if not groups.ALL:
        leave_out(f"{what} left out of short runs: make test TESTS=all")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason why tests were left out, whichever process ran them."""
    from tests.ops.conformance import NO_CUDA

    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", ())]
    reasons = {text[2].removeprefix("Skipped: ") for text in skipped if isinstance(text, tuple)}
    if NO_CUDA:
        reasons.add(f"tests/kernels (but for test_c_api.py), and tests/ops on CUDA, left out: {NO_CUDA}")
    for line in sorted(reasons):
        terminalreporter.write_line(line)
