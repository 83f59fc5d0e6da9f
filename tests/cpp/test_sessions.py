"""libseqexport gives the tokens that Python gives, in every way that a session goes on; under sanitizers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.sampling import Sampling
from tests.conftest import Exported
from tests.cpp.embedded import Embedding, Installed

PRESETS = ("mamba", "mamba2", "transformer", "hybrid")
PROMPT = [84, 104, 101, 32]
ROWS, LENGTHS = [[82, 101, 116, 117, 114, 110], [84, 104, 101, 0, 0, 0]], [6, 3]
DRAWN = (1.0, 40, 0.95, 11)
SAMPLED = Sampling(*DRAWN)
CAPACITY = 64


@pytest.fixture(scope="module", params=PRESETS)
def bundle(request: pytest.FixtureRequest, exported: Exported) -> Bundle:
    return exported(f"preset:{request.param}", target="ort", dtype="float32", logits="last")


@pytest.fixture(scope="module")
def transformer(exported: Exported) -> Bundle:
    return exported("preset:transformer", target="ort", dtype="float32", logits="last")


@pytest.fixture
def python(bundle: Bundle) -> Iterator[OrtRunner]:
    with OrtRunner(bundle, threads=1) as runner:
        yield runner


def flat(steps: Iterator[np.ndarray]) -> list[int]:
    return [int(token) for step in steps for token in step]


def flags(tokens: list[int], sampling: tuple[float, int, float, int] | None) -> list[object]:
    names = ("--temperature", "--top-k", "--top-p", "--seed")
    drawn = [f"{name}={value}" for name, value in zip(names, sampling or (), strict=False)]
    return [f"--tokens={','.join(map(str, tokens))}", "--threads=1", *drawn]


@pytest.mark.parametrize("drawn", [None, DRAWN], ids=["greedy", "sampled"])
def test_tokens_and_files_are_those_of_python(
    package: Installed, bundle: Bundle, python: OrtRunner, drawn: tuple[float, int, float, int] | None, tmp_path: Path
) -> None:
    with python.session() as session:
        session.prefill(np.array([PROMPT]))
        expected = flat(session.generate(20, Sampling(*drawn) if drawn else None))
        session.save(tmp_path / "python")
        rest = flat(session.generate(10))
    made = package.run(bundle.path, *flags(PROMPT, drawn), "--max-new-tokens=20", "--save", tmp_path / "cpp")
    assert (made.code, made.err) == (0, "")
    assert [int(word) for word in made.out.split()] == expected
    resumed = package.run(bundle.path, "--threads=1", "--resume", tmp_path / "python", "--max-new-tokens=10")
    assert [int(word) for word in resumed.out.split()] == rest
    with python.restore(tmp_path / "cpp") as session:
        assert session.recent[0, -24:].tolist() == PROMPT + expected
        assert flat(session.generate(10)) == rest


@pytest.mark.parametrize("name", ["mamba", "transformer"])
def test_our_op_library_computes_the_ops(
    package: Installed, exported: Exported, native_library: Callable[[str], Path], name: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    library = native_library("onnxruntime")
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(library.parent))
    bundle = exported(f"preset:{name}", target="portable", dtype="float32", logits="all")
    with OrtRunner(bundle, threads=1) as runner, runner.session() as session:
        assert runner.ops.path == library
        session.prefill(np.array([PROMPT]))
        expected = flat(session.generate(20, SAMPLED))
        rest = flat(session.generate(6))
    made = package.run(bundle.path, *flags(PROMPT, DRAWN), "--max-new-tokens=20", "--verbose", "--save", tmp_path / "a")
    assert made.code == 0 and made.err.endswith(f"target portable, {runner.ops}\n")
    assert [int(word) for word in made.out.split()] == expected
    resumed = package.run(bundle.path, "--threads=1", "--resume", tmp_path / "a", "--max-new-tokens=6")
    assert [int(word) for word in resumed.out.split()] == rest


def test_states_of_float16(package: Installed, exported: Exported, tmp_path: Path) -> None:
    bundle = exported("preset:hybrid", target="ort", dtype="float16", logits="last")
    with OrtRunner(bundle, threads=1) as runner, runner.session() as session:
        session.prefill(np.array([PROMPT]))
        session.save(tmp_path / "python")
        expected = flat(session.generate(8))
    made = package.run(bundle.path, "--threads=1", "--resume", tmp_path / "python", "--max-new-tokens=3",
                       "--save", tmp_path / "cpp")  # fmt: skip
    assert [int(word) for word in made.out.split()] == expected[:3]
    with OrtRunner(bundle, threads=1) as runner, runner.restore(tmp_path / "cpp") as session:
        assert flat(session.generate(5)) == expected[3:]


def test_a_ragged_batch_forked_and_rewound(package: Installed, bundle: Bundle, python: OrtRunner) -> None:
    with python.session(2, CAPACITY) as session:
        session.keep(4, 1 << 24)
        session.prefill(np.array(ROWS), np.array(LENGTHS, np.int32))
        expected, rest = flat(session.generate(12, SAMPLED)), flat(session.generate(6))
        back = session.rewind(14)
        again = flat(session.generate(4))
    with Embedding(package.embedding, bundle.path) as program:
        program("open", 2, CAPACITY)
        program("keep", 4, 1 << 24)
        assert program("ragged", *LENGTHS, *(token for row in ROWS for token in row)) == "6"
        assert program.tokens("generate", 12, 0, *DRAWN) == expected
        assert program.tokens("fork", 6, 0) == rest
        assert program.tokens("generate", 6, 2) == rest[:4]
        assert program.tokens("generate", 4, 0) == rest[4:]
        assert program("rewind", 14) == str(back)
        assert program.tokens("generate", 4, 0) == again
        assert program("reset") == "0"
        assert "the prompt is empty" in program("generate", 1, 0)


def test_a_long_prompt_is_read_in_pieces(package: Installed, bundle: Bundle, python: OrtRunner) -> None:
    prompt = [32 + i % 90 for i in range(40)]
    with python.session(1, CAPACITY) as session:
        session.prefill(np.array([prompt]))
        expected = flat(session.generate(5))
    with Embedding(package.embedding, bundle.path) as program:
        program("open", 1, CAPACITY)
        program("keep", 16, 1 << 24)
        assert program("prefill", *prompt) == "40"
        assert program.tokens("generate", 5, 0) == expected
        assert program("rewind", 39) == "32"
        program("prefill", *prompt[32:])
        assert program.tokens("generate", 5, 0) == expected


def test_padding_may_pass_the_capacity_where_valid_tokens_fit(package: Installed, transformer: Bundle) -> None:
    with OrtRunner(transformer, threads=1) as runner, runner.session(2, 8) as session:
        session.prefill(np.array(ROWS), np.array(LENGTHS, np.int32))
        session.prefill(np.array([row[:5] for row in ROWS]), np.array([1, 5], np.int32))
        expected = flat(session.generate(9))
    with Embedding(package.embedding, transformer.path) as program:
        program("open", 2, 8)
        program("ragged", *LENGTHS, *(token for row in ROWS for token in row))
        assert program("ragged", 1, 5, *(token for row in ROWS for token in row[:5])) == "8"
        assert program.tokens("generate", 9, 0) == expected


def test_threads(race_checked: Installed, mamba: Bundle) -> None:
    """Under ThreadSanitizer, which ends the program with another exit code where two threads meet."""
    with Embedding(race_checked.embedding, mamba.path) as program:
        program("open", 1, 0)
        program("prefill", *PROMPT)
        busy = "5 this session is in use by another thread; give each thread a session of its own"
        for told in (5, 6):
            assert program("threads") == f"{busy}; cancelled after {told}"
        assert len(program.tokens("crowd")) == 12


def test_exceptions_of_the_caller_and_of_the_disk(package: Installed, mamba: Bundle) -> None:
    with Embedding(package.embedding, mamba.path) as program:
        program("open", 1, 0)
        program("prefill", *PROMPT)
        assert program("throw") == "the caller's own"
        assert program("save", "/proc/none").startswith("error 3: /proc/none: cannot be written (")


def test_what_a_session_does_not_take(package: Installed, transformer: Bundle) -> None:
    with Embedding(package.embedding, transformer.path) as program:
        assert program("open", 1, 1 << 20).startswith(
            "error 1: capacity of 1048576 tokens: the bundle was exported for"
        )
        assert program("open", 0, 8) == "error 1: batch size 0: expected at least 1"
        program("open", 1, 8)
        assert program("prefill") == "error 1: no tokens: expected at least one; the prompt is empty"
        assert program("prefill", -1) == "error 1: token -1: outside the vocabulary of 256"
        assert program("ragged", 3, 65, 66) == "error 1: seq_lens 3: expected 0 to 2"
        assert program("prefill", *range(9)).startswith("error 1: a sequence of 9 tokens: this session's capacity is 8")
        assert program("prefill", *PROMPT) == "4"
        assert program("generate", 1, 0, -1, 0, 1, 0) == "error 1: temperature -1: expected at least 0"
        assert program("generate", 1, 0, 1, 0, 1.5, 0) == "error 1: top_p 1.5: expected above 0, and 1 at most"
        assert len(program.tokens("generate", 9, 0)) == 4
        assert program("generate", 1, 0) == ""
        assert program("rewind", 9) == "error 1: tokens 9: expected 0 to 8, which the session has now"
        assert program("keep", 0, 1) == "error 1: every 0: expected at least 1"
        assert program("keep", 4, 10).startswith("error 1: max_bytes 10: a checkpoint of this session takes ")


def test_only_the_documented_symbols_are_exported(package: Installed) -> None:
    shown = subprocess.run(["nm", "-D", "--defined-only", package.library], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in shown.stdout.splitlines()}
    header = (package.prefix / "include" / "seqexport.h").read_text()
    assert len(names) > 20
    assert all(f"{name}(" in header for name in names)


def test_the_package_names_itself(package: Installed) -> None:
    (described,) = package.prefix.glob("lib*/pkgconfig/seqexport.pc")
    lines = described.read_text().splitlines()
    assert f"prefix={package.prefix}" in lines and "Libs: -L${libdir} -lseqexport" in lines
