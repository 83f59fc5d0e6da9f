"""The order of the tests' files in a run by several processes, each of which takes the next file when it is free."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
BUILDERS = (
    "cpp/test_trt.py",
    "onnxruntime/test_cpu_kernels.py",
    "onnxruntime/test_versions.py",
    "cpp/test_run.py",
    "cpp/test_aarch64.py",
    "cpp/test_compiles.py",
    "cpp/test_fuzz.py",
    "cpp/test_speed.py",
    "tensorrt/test_harness.py",
)
"""Of the files that compile for minutes, one for each product, so that no two processes wait for the same build.

They come first: many have few tests, and at the end of a run one process would compile while the others have no file.
"""


def arrange(items: list[pytest.Item]) -> None:
    """Sorts tests by their files: ``BUILDERS``, then those with most tests; the order within a file stays."""
    builders = {ROOT / name: place for place, name in enumerate(BUILDERS)}
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: (builders.get(item.path, len(BUILDERS)), -counts[item.path], item.path))
