"""The plugin library driven by its plugin interface as TensorRT does; with a GPU, its launches too."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from seqexport.plugins import library
from tests.native import DESCRIPTIONS, KERNELS
from tests.tensorrt.compiler import ADAPTERS, ROOT, VERSIONS, compile_cleanly

HARNESS = sorted(Path(__file__).parent.glob("*.cpp"))
PLUGINS = [*sorted((ROOT / "plugins" / "tensorrt").glob("*.cpp")), *DESCRIPTIONS]
INCLUDES = (f"-I{KERNELS}", '-DSEQEXPORT_VERSION="0"')
CHECKED = ("-fsanitize=address", "-fsanitize=undefined", "-fno-sanitize-recover=undefined", "-fPIC")
SANITIZERS = [word for flag in CHECKED for word in ("-Xcompiler", flag)]


def test_the_plugins_do_what_tensorrt_asks(native_library: Callable[[str], Path], tmp_path: Path) -> None:
    plugins = native_library("tensorrt")
    version = library.built(plugins.parent)["tensorrt"].built_for["tensorrt"]
    harness = tmp_path / "harness"
    compile_cleanly(version, "-o", harness, *HARNESS)
    assert_all_holds(version, harness, plugins)


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Objects of the sources that see no TensorRT, with sanitizers."""
    folder = tmp_path_factory.mktemp("common")
    sources = [file for file in (*PLUGINS, *HARNESS) if file not in ADAPTERS and not file.stem.startswith("harness")]
    compile_cleanly(VERSIONS[0], *SANITIZERS, *INCLUDES, "-O1", "-c", "-odir", folder, *sources)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("version", ["8.5.2", "8.6.1", "11.1.0"])
def test_they_touch_no_memory_that_is_not_theirs(version: str, common: list[Path], tmp_path: Path) -> None:
    """The kernels are left out of the library: nothing is launched."""
    sources = [*ADAPTERS, *(file for file in HARNESS if file.stem.startswith("harness"))]
    compile_cleanly(version, *SANITIZERS, *INCLUDES, "-c", "-odir", tmp_path, *sources)
    own, others = [*common, *tmp_path.iterdir()], {file.stem for file in HARNESS}
    built, harness = tmp_path / "plugins.so", tmp_path / "harness"
    compile_cleanly(version, *SANITIZERS, "-shared", "-o", built, *(o for o in own if o.stem not in others))
    compile_cleanly(version, *SANITIZERS, "-o", harness, *(o for o in own if o.stem in others))
    assert_all_holds(version, harness, built, "--no-launches")


def assert_all_holds(version: str, *command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("FAILED")] == []
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["tensorrt"] for line in lines if line.startswith("{")] == [version]
    assert sum(line.startswith("ok: ") for line in lines) > 800


OURS = ("seqexport_tensorrt_conflict", "seqexport_tensorrt_info")


def test_the_library_shows_its_entry_points_and_nothing_else(native_library: Callable[[str], Path]) -> None:
    listed = subprocess.run(["nm", "-D", "--defined-only", native_library("tensorrt")], capture_output=True, text=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert names in (
        {"getPluginCreators", "setLoggerFinder", *OURS},
        {"getCreators", "setLoggerFinder", *OURS},
    )
