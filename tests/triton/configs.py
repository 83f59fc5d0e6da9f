"""What Triton's own protobuf makes of a repository's configurations."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import leave_out

PYTHON = "SEQEXPORT_TRITON"
Config = dict[str, Any]


def configs(repository: Path) -> dict[str, Config]:
    """Of every model, by its name. Sizes of 64 bits are texts there."""
    if (python := os.environ.get(PYTHON)) is None or not Path(python).exists():
        leave_out(f"tests of Triton's configurations left out: {PYTHON} names no Python that has tritonclient[grpc]")
    files = sorted(repository.glob("*/config.pbtxt"))
    script = Path(__file__).with_name("read_config.py")
    ran = subprocess.run([python, script, *files], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return {config["name"]: config for config in json.loads(ran.stdout)}
