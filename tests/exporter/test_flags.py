"""The library's words for arguments, as flags of the command line."""

from __future__ import annotations

import pytest

from seqexport.exporter.flags import flags

CASES = [
    ("`max_len` 0: expected at least 1", "--max-len 0: expected at least 1"),
    ("take `force=True` or another `output`", "take --force or another -o"),
    ("use `device='cpu'`", "use --device cpu"),
    ("`plugins=False` was given", "--no-plugins was given"),
    ("not an option of trt; those are: `device`, `plugins`", "not an option of trt; those are: --device, --no-plugins"),
    ("no argument: `Two words` and ``code``", "no argument: `Two words` and ``code``"),
]


@pytest.mark.parametrize(("said", "expected"), CASES)
def test_flags(said: str, expected: str) -> None:
    assert flags(said) == expected
