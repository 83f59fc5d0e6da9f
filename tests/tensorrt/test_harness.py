"""The plugin library driven through IPluginV3 as TensorRT does; with a GPU, its launches too."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from seqexport.plugins import library
from tests.conftest import leave_out
from tests.tensorrt.compiler import compile_cleanly

HARNESS = sorted(Path(__file__).parent.glob("*.cpp"))


def test_the_plugins_do_what_tensorrt_asks(native_library: Callable[[str], Path], tmp_path: Path) -> None:
    plugins = native_library("tensorrt")
    version = library.built(plugins.parent)["tensorrt"].built_for["tensorrt"]
    if int(version.partition(".")[0]) < 10:
        leave_out(f"tests/tensorrt's harness left out: the plugins here are for TensorRT {version}, older than 10")
    harness = tmp_path / "harness"
    compile_cleanly(version, "-o", harness, *HARNESS)
    done = subprocess.run([harness, plugins], capture_output=True, text=True)
    info, *checks = done.stdout.splitlines()
    assert json.loads(info)["tensorrt"] == version
    assert [line for line in checks if line.startswith("FAILED")] == []
    assert done.returncode == 0, done.stderr
    assert sum(line.startswith("ok: ") for line in checks) > 300


def test_the_library_shows_its_entry_points_and_nothing_else(native_library: Callable[[str], Path]) -> None:
    listed = subprocess.run(["nm", "-D", "--defined-only", native_library("tensorrt")], capture_output=True, text=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert names in (
        {"getPluginCreators", "setLoggerFinder", "seqexport_tensorrt_info"},
        {"getCreators", "setLoggerFinder", "seqexport_tensorrt_info"},
    )
