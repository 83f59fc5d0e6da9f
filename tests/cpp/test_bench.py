"""seqexport-bench tells what it was asked for; how fast that is, no test says."""

from __future__ import annotations

import json

import pytest

from seqexport.runtimes.bundle import Bundle
from tests.conftest import Exported
from tests.cpp.embedded import Installed

SHORT = ("--inputLen=6", "--iterations=3", "--threads=1")


def test_json(package: Installed, mamba: Bundle) -> None:
    done = package.run(mamba.path, *SHORT, "--pastLen=4", "--batch=2", "--json", tool="seqexport-bench")
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert told.pop("runtime").startswith("ONNX Runtime ")
    prompt, token = told.pop("prompt_ms"), told.pop("token_ms")
    assert prompt > 0 and token > 0
    assert told.pop("prompt_tokens_per_s") == pytest.approx(2 * 6 * 1000 / prompt)
    assert told.pop("tokens_per_s") == pytest.approx(2 * 1000 / token)
    assert told == {"bundle": str(mamba.path), "input_length": 6, "past_length": 4, "batch": 2, "iterations": 3}


def test_text(package: Installed, mamba: Bundle) -> None:
    runtime, times = package.run(mamba.path, *SHORT, tool="seqexport-bench").out.splitlines()
    assert runtime.startswith("ONNX Runtime ") and runtime.endswith(
        "target ort, ops by function bodies (libseqexport_ort.so is not built)"
    )
    assert times.startswith("batch 1: a prompt of 6 tokens after 0 in ")


def test_help_and_version(package: Installed) -> None:
    assert package.run("--version", tool="seqexport-bench").out == "seqexport-bench 0.1.0\n"
    shown = package.run("--help", tool="seqexport-bench")
    assert shown.code == 0 and "--inputLen=N" in shown.out and "--plugins=FILE" in shown.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no BUNDLE is given; seqexport-bench --help has examples"),
        (["x", "--batch=0"], "--batch '0': expected a whole number of at least 1"),
        (["x", "y"], "y: one BUNDLE only, and x is given"),
        (["x", "--iters=2"], "unknown flag --iters; seqexport-bench --help lists them"),
    ],
    ids=" ".join,
)
def test_flags(package: Installed, words: list[str], told: str) -> None:
    assert told in package.run(*words, tool="seqexport-bench").refusal


def test_more_than_the_capacity(package: Installed, exported: Exported) -> None:
    bundle = exported("preset:transformer", target="ort", dtype="float32", logits="last")
    refusal = package.run(bundle.path, "--inputLen=9000", tool="seqexport-bench").refusal
    assert refusal == "capacity of 9021 tokens: the bundle was exported for at most 8192"
