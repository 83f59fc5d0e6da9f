"""The assistants, in Python and in C++, as a stranger would run them: one session, one text."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import seqexport
from seqexport.runtimes.bundle import Bundle
from tests.conftest import Exported
from tests.cpp.embedded import ROOT, Installed

GREEDY = ("--temperature=0", "--max-new-tokens=128")
STATISTICS = re.compile(r"\[(\d+) tokens, [\d.]+ tokens/s, the first after \d+ ms; "
                        r"this process \d+ MB, [\d.]+ of [\d.]+ GB free\]\n")  # fmt: skip


def ran(*command: object, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], input=text, capture_output=True, text=True, errors="replace")


@pytest.mark.parametrize("first", ["python", "c++"])
def test_both_say_the_same_and_go_on_with_the_same_session(
    package: Installed, mamba: Bundle, first: str, tmp_path: Path
) -> None:
    file = tmp_path / "talk"
    questions = ["def add(a, b):\n", "é\n"]
    with seqexport.load(mamba.path) as model:
        session = model.session()
        expected = ["".join(model.resume(session, question)) + "\n" for question in questions]
    program = {"python": (sys.executable, ROOT / "examples" / "assistant.py", mamba.path, file),
               "c++": (*package.assistant, mamba.path, f"--session={file}", *GREEDY)}  # fmt: skip
    for who, question, answer in zip((first, ({*program} - {first}).pop()), questions, expected, strict=True):
        done = ran(*program[who], text=question)
        assert (done.returncode, done.stdout) == (0, answer), done.stderr


@contextmanager
def talking(*command: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([str(word) for word in command], text=True, errors="replace",
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_interrupt_ends_the_answer_and_saves(package: Installed, mamba: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "talk"
    with talking(*package.assistant, mamba.path, f"--session={file}", "--max-new-tokens=1000000") as process:
        assert process.stdin and process.stdout and process.stderr
        print("The state of a", file=process.stdin, flush=True)
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130 and out.endswith("\n")
    statistics = STATISTICS.search(err)
    assert statistics, err
    total = len("The state of a\n") + int(statistics[1])
    assert err.endswith(f"{file}: saved after {total} tokens\n")
    again = ran(*package.assistant, mamba.path, f"--session={file}")
    assert again.returncode == 0 and f"{file}: goes on after {total} tokens\n" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_the_wait_for_a_line_and_saves(
    package: Installed, mamba: Bundle, number: signal.Signals, tmp_path: Path
) -> None:
    file = tmp_path / "talk"
    with talking(*package.assistant, mamba.path, f"--session={file}", "--max-new-tokens=3") as process:
        assert process.stdin and process.stderr
        print("The ", file=process.stdin, flush=True)
        while not process.stderr.readline().startswith("["):
            assert process.poll() is None
        time.sleep(0.2)  # until it waits
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
    with seqexport.load(mamba.path) as model:
        assert model.restore(file).position == len("The \n") + 3


def test_nobody_reads_the_answer(package: Installed, mamba: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "talk"
    command = [*package.assistant, mamba.path, f"--session={file}", "--max-new-tokens=1000000"]
    with talking(*command) as process:
        assert process.stdin and process.stdout
        print("The ", file=process.stdin, flush=True)
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    assert file.is_file()


def test_a_session_that_is_full_says_so_and_begins_anew(package: Installed, exported: Exported, tmp_path: Path) -> None:
    bundle = exported("preset:transformer", target="ort", dtype="float32", logits="last")
    flags = (bundle.path, f"--session={tmp_path / 'talk'}", "--capacity=12", "--temperature=0", "--max-new-tokens=4")
    done = ran(*package.assistant, *flags, text="0123456\n0123456\n/reset\n0123456\n")
    answers = done.stdout.splitlines()
    assert done.returncode == 0 and answers[0] == answers[1] != ""
    assert "error: a sequence of 20 tokens: this session's capacity is 12" in done.stderr
    assert done.stderr.endswith("saved after 12 tokens\n")
    anew = ran(*package.assistant, *flags, text="/reset\n")
    assert anew.stderr.endswith("saved after 0 tokens\n")
    assert ran(*package.assistant, *flags, text="0123456\n").stdout.splitlines() == answers[:1]


def test_what_it_refuses(package: Installed, exported: Exported, mamba: Bundle, tmp_path: Path) -> None:
    def refusal(*words: object) -> str:
        done = ran(*package.assistant, *words, text="The \n")
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done
        return done.stderr

    file = tmp_path / "talk"
    file.write_bytes(b"something else")
    assert refusal(mamba.path, f"--session={file}").startswith(f"error: {file}: damaged or cut short")
    assert file.read_bytes() == b"something else"
    for words in ([], ["a", "b"]):
        assert f"expected one BUNDLE, got {len(words)}; assistant --help" in refusal(*words)
    assert "--nothing: not known, or without its value" in refusal("--nothing", "x")
    assert "'-1': expected a whole number of 1 to" in refusal("x", "--max-new-tokens=-1")
    assert "'much': expected a number" in refusal("x", "--top-p=much")
    assert "x is not a bundle" in refusal("x")
    without = exported("llama", target="ort", logits="last")
    assert f"{without.path}: has no tokenizer.json; give and take tokens" in refusal(without.path)


def test_help(package: Installed) -> None:
    done = ran(*package.assistant, "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: assistant BUNDLE [flags]")


def test_the_one_in_python_is_ten_lines() -> None:
    _, code = (ROOT / "examples" / "assistant.py").read_text().split("import seqexport\n")
    assert len(code.split("\n\n", 1)[-1].strip().splitlines()) <= 10
