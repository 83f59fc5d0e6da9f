"""The commands that the package's docstring lists."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from tests.support import __doc__ as usage
from tests.support.records import FOLDER
from tests.support.table import PAGE, written


def main(command: str = "", *rest: str) -> int:
    if command == "run":
        release = ".".join(importlib.metadata.version("transformers").split(".")[:2])
        recording = ["--support", str(FOLDER / f"transformers-{release}.json"), "tests/exporter/test_families.py"]
        return subprocess.run([sys.executable, "-m", "pytest", *recording, *rest]).returncode
    if command == "table":
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    if command in ("bundles", "tensorrt") and rest:
        from tests.support import tensorrt

        if command == "tensorrt":
            return int(tensorrt.run.main(rest, standalone_mode=False) or 0)
        folder, *families = rest
        tensorrt.make_bundles(Path(folder), families)
        return 0
    print(usage)
    return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
