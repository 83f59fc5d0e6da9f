"""``seqexport plugins build`` and ``seqexport plugins list``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from seqexport.plugins import build as building
from seqexport.plugins import library
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_list_without_any(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path))
    result = run("plugins", "list")
    assert result.code == 0
    assert result.out.count("not built: seqexport plugins build") == 3
    assert str(tmp_path) in result.out


def test_list_says_what_each_was_built_for(
    run: Run, native_plugins: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(native_plugins, tmp_path / "plugins")
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path / "plugins"))
    result = run("plugins", "list")
    assert result.code == 0
    for built in library.built().values():
        line = next(line for line in result.out.splitlines() if built.path.name in line)
        assert f"seqexport {library.version()}, intact" in line
        for value in built.built_for.values():
            assert value.replace(";", " ") in line
    built = next(iter(library.built().values()))
    built.path.write_bytes(built.path.read_bytes()[:-1])
    out = run("plugins", "list").out
    line = next(line for line in out.splitlines() if built.path.name in line)
    assert "✗" in line and "damaged" in out


def test_build_puts_the_libraries_where_they_are_found(
    run: Run, native_plugins: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After ``native_plugins`` there is little left to compile."""
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path / "plugins"))
    architectures = library.built(native_plugins)
    names = {b.built_for.get("architectures", "90").replace(";", ",") for b in architectures.values()}
    result = run("plugins", "build", "--cuda-arch", names.pop())
    assert result.code == 0, result.err
    for tool in ("cmake", "C++ compiler", "nvcc", "tensorrt headers", "onnxruntime headers"):
        assert f"\n{tool} " in f"\n{result.out}"
    assert library.built().keys() == architectures.keys()
    for name in architectures:
        assert str(library.require(name).path) in result.out


def test_build_without_nvcc_or_headers_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sources = tmp_path / "sources"
    shutil.copytree(building.SOURCE / "cmake", sources / "cmake")
    shutil.copy(building.SOURCE / "CMakeLists.txt", sources)
    monkeypatch.setattr(building, "SOURCE", sources)
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path / "plugins"))
    result = run("plugins", "build")
    assert "nvcc: not found, and nothing can be built without it; install the CUDA Toolkit: https://" in result.refusal
    assert not (tmp_path / "plugins").exists()


@pytest.mark.parametrize(("options", "message"), [
    (["--cuda-arch", "hopper"], "--cuda-arch 'hopper': not an architecture"),
    (["--tensorrt-include", "/nowhere"], "/nowhere: no NvInferVersion.h that says its version; give the folder"),
    (["--onnxruntime-include", "/nowhere"], "/nowhere: no onnxruntime_c_api.h that says its version"),
])  # fmt: skip
def test_build_refuses(
    run: Run, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path / "plugins"))
    assert message in run("plugins", "build", *options).refusal
    assert not (tmp_path / "plugins").exists()
