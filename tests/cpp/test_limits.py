"""libseqexport as it is shipped: its size, its symbols, and what it does where memory or the disk is full."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from seqexport.runtimes.bundle import Bundle
from tests.conftest import Exported, leave_out
from tests.cpp.embedded import Embedding, Installed

MIB = 1 << 20
OUT_OF_MEMORY = "error 7: out of memory; use a smaller batch or capacity, or close other sessions"
PROMPT = (84, 104, 101, 32)


@pytest.fixture
def transformer(exported: Exported) -> Bundle:
    return exported("preset:transformer", target="ort", dtype="float32", logits="last")


def test_it_is_small(shipped_package: Installed, tmp_path: Path) -> None:
    stripped = Path(shutil.copy(shipped_package.library, tmp_path / "stripped.so"))
    subprocess.run(["strip", "--strip-unneeded", stripped], check=True)
    assert stripped.stat().st_size < 1_000_000


def test_only_the_documented_symbols_are_exported(shipped_package: Installed) -> None:
    command = ["nm", "-D", "--defined-only", "--extern-only", shipped_package.library]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    header = (shipped_package.prefix / "include" / "seqexport.h").read_text()
    names = {line.split()[-1] for line in shown.stdout.splitlines()}
    assert len(names) > 20 and all(f"{name}(" in header for name in names)


def test_any_release_of_onnx_runtime_serves_it(shipped_package: Installed) -> None:
    """Its one symbol is asked for without the version that the release here gives it."""
    command = ["nm", "-D", "--undefined-only", shipped_package.library]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in shown if name.startswith("Ort")] == ["OrtGetApiBase"]


@pytest.mark.parametrize("name", ["mamba", "transformer"])
def test_memory_stays_flat_over_a_thousand_sessions(
    shipped_package: Installed, request: pytest.FixtureRequest, name: str
) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    with Embedding(shipped_package.embedding, bundle.path) as program:
        process = psutil.Process(program.pid)
        first = program("many", 100)
        before = process.memory_info().rss
        assert program("many", 1000) == first
        assert process.memory_info().rss - before < 2 * MIB
        assert process.num_fds() < 64


def test_out_of_memory_is_an_error_and_loses_nothing(shipped_package: Installed, mamba: Bundle) -> None:
    with Embedding(shipped_package.embedding, mamba.path) as program:
        program("open", 1, 0)
        program("prefill", *PROMPT)
        expected = program.tokens("fork", 6, 0)
        for batch in (2**40, 2**62, 2**64 - 1):  # of which 2^62 is more than any vector takes
            assert program("open", batch, 0) == OUT_OF_MEMORY
        limit_memory(program, more=48 * MIB)
        assert program("open", 4096, 0) == OUT_OF_MEMORY
        told = program("prefill", *[65] * 60_000)
        assert told == OUT_OF_MEMORY
        assert program.tokens("generate", 6, 0) == expected


def limit_memory(program: Embedding, *, more: int) -> None:
    """From now on its address space grows by so many bytes at most."""
    size = psutil.Process(program.pid).memory_info().vms + more
    resource.prlimit(program.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", folder], capture_output=True)
    if mounted.returncode:
        leave_out("the test of a full disk left out: no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_what_was_there(shipped_package: Installed, mamba: Bundle, small_disk: Path) -> None:
    saved = small_disk / "saved"
    with Embedding(shipped_package.embedding, mamba.path) as program:
        program("open", 1, 0)
        program("prefill", *PROMPT)
        assert program("save", saved) == ""
        before = saved.read_bytes()
        assert 64 << 10 < len(before) < 128 << 10  # so that a second one does not fit beside it
        program("prefill", 65)
        told = f"error 3: {saved}: cannot be written (No space left on device); nothing was left behind"
        assert program("save", saved) == told
        assert saved.read_bytes() == before and list(small_disk.iterdir()) == [saved]
        expected = program.tokens("fork", 6, 0)
        assert program.tokens("generate", 6, 0) == expected
