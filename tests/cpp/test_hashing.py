"""SHA-256 in every form that processors have instructions for, against Python's; that of aarch64 in an emulator."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import leave_out
from tests.cpp.embedded import CROSS, EMULATOR, LIBRARIES, SOURCES
from tests.cpp.parts import SANITIZED, compiled

PROGRAM = Path(__file__).parent / "hashing" / "main.cpp"
SIZES = (*range(131), 191, 192, 193, 1000, 4096, 65_549)
PARTS = (1, 3, 63, 64, 65, 200, 70_000)
CONTENT = np.random.default_rng(0).bytes(max(SIZES))


def hashing(folder: Path, compiler: str, *flags: str) -> Path:
    sources = sorted((SOURCES / "common").glob("sha256*.cpp"))
    return compiled(folder / "hashing", compiler, *flags, PROGRAM, *sources)


def forms_that_hash_right(*command: object) -> list[str]:
    """The names of a program's forms, the one that is used first."""
    cases = [(size, part) for size in SIZES for part in PARTS]
    words = [str(word) for word in (*command, *(f"{size},{part}" for size, part in cases))]
    done = subprocess.run(words, input=CONTENT, capture_output=True, check=True)
    lines = done.stdout.decode().splitlines()
    names = list(dict.fromkeys(line.split()[0] for line in lines))
    hashes = {size: hashlib.sha256(CONTENT[:size]).hexdigest() for size in SIZES}
    assert lines == [f"{name} {size} {part} {hashes[size]}" for name in names for size, part in cases]
    return names


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_every_form_here(compiler: str, tmp_path: Path) -> None:
    names = forms_that_hash_right(hashing(tmp_path, compiler, *SANITIZED))
    features = Path("/proc/cpuinfo").read_text().split()
    if platform.machine() == "x86_64":
        assert names == (["x86", "portable"] if "sha_ni" in features else ["portable"])


@pytest.mark.parametrize("optimised", ["-O0", "-O2"])
def test_every_form_on_aarch64(optimised: str, tmp_path: Path) -> None:
    if shutil.which(EMULATOR) is None:
        leave_out(f"SHA-256 on aarch64 left out: no {EMULATOR}")
    program = hashing(tmp_path, CROSS, optimised)
    emulated = (EMULATOR, "-cpu", "max", "-L", LIBRARIES.parent, program)
    assert forms_that_hash_right(*emulated) == ["arm", "portable"]


def test_known_answers(tmp_path: Path) -> None:
    """FIPS 180-4's examples, of one block and of two."""
    program = hashing(tmp_path, "g++")
    for text, expected in (
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
    ):
        done = subprocess.run([program, f"{len(text)},{len(text)}"], input=text, capture_output=True, check=True)
        assert {line.split()[-1] for line in done.stdout.decode().splitlines()} == {expected}
