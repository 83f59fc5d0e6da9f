"""The adapters compile without a warning against every TensorRT whose interfaces differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tensorrt.compiler import ADAPTERS, ROOT, VERSIONS, compile_cleanly


@pytest.mark.parametrize("version", VERSIONS)
def test_the_adapters_compile_without_a_warning(version: str, tmp_path: Path) -> None:
    assert {"plugin_v2", "plugin_v3", "tensorrt", "library", "report", "host"} == {file.stem for file in ADAPTERS}
    include = f"-I{ROOT / 'plugins' / 'kernels'}"
    compile_cleanly(version, include, '-DSEQEXPORT_VERSION="0"', "-c", "-odir", tmp_path, *ADAPTERS)
    assert len(list(tmp_path.iterdir())) == len(ADAPTERS)
