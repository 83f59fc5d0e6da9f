"""The likeliest token of large vocabularies, against NumPy's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cpp.parts import SANITIZED, compiled

PROGRAM = Path(__file__).parent / "choosing" / "main.cpp"
VOCABS = (1, 2, 15, 17, 1023, 1024, 1025, 2048, 50_280)


@pytest.fixture(scope="module")
def choosing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("choosing") / "choosing"
    return compiled(made, "c++", *SANITIZED, PROGRAM, "runtime/sampling.cpp", "common/error.cpp")


def chosen(program: Path, logits: np.ndarray) -> list[int]:
    words = [str(program), str(logits.shape[1])]
    done = subprocess.run(words, input=logits.astype(np.float32).tobytes(), capture_output=True, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize("vocab", VOCABS)
def test_the_first_of_the_largest(vocab: int, choosing: Path) -> None:
    numbers = np.random.default_rng(vocab)
    rows = [numbers.normal(0, 3, (20, vocab)),  # all differ
            numbers.integers(-6, 1, (20, vocab)),  # many zeros, and nothing above
            -numbers.integers(1, 9, (20, vocab)),
            np.where(numbers.random((20, vocab)) < 0.5, 0.0, -0.0)]  # fmt: skip
    logits = np.concatenate(rows).astype(np.float32)
    assert chosen(choosing, logits) == logits.argmax(1).tolist()


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_anywhere(value: float, choosing: Path) -> None:
    for vocab in VOCABS:
        places = sorted({0, vocab // 2, vocab - 1})
        logits = np.zeros((len(places), vocab), np.float32)
        logits[np.arange(len(places)), places] = value
        assert chosen(choosing, logits) == [-1] * len(places)
