"""The page "Add an op" is true: its files, put into a copy of the sources, are an op, and nothing else is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seqexport.plugins import toolchain
from tests.conftest import leave_out
from tests.docs.pages import ROOT, Block, blocks

PAGE = ROOT / "docs" / "add-an-op.md"
FILES = {block.title: block for block in blocks(PAGE) if block.title}
LIST, LAST = "plugins/kernels/op_list.h", "  OP(selective_scan"
PARTS = ("exporter", "plugins", "runtimes")

RUN_TESTS = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
sys.path[:0] = ["package", "."]
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""
"""With the copy's packages in the place of those that are installed."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources with the op of the page in them."""
    folder = tmp_path_factory.mktemp("sources")
    for name in (*PARTS, "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    package = shutil.copytree(ROOT / "seqexport", folder / "package" / "seqexport")
    for name in PARTS:
        (package / name).symlink_to(folder / name)
    for name, block in FILES.items():
        _put(folder / name, block)
    return folder


def _put(file: Path, block: Block) -> None:
    if not file.exists():
        file.write_text(block.code)
        return
    listed = file.read_text()
    assert file.name == Path(LIST).name and listed.count(LAST) == 1
    file.write_text(listed.replace(LAST, block.code + LAST))


def test_the_page_names_its_files() -> None:
    table = {line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    assert set(FILES) == table - {"tests/tensorrt/cases.cpp"}


def test_the_op_passes_its_tests_and_those_of_the_descriptions(copy: Path) -> None:
    files = ["tests/ops/test_scaled_add.py", "tests/ops/test_descriptions.py"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN_TESTS, *files], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def test_the_cpu_kernel_compiles(copy: Path) -> None:
    compiler = toolchain.find_toolchain().cxx.path
    if compiler is None:
        leave_out("the kernel of the page that adds an op left out: no C++ compiler")
    kernels = copy / "plugins" / "kernels"
    options = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    defines = ["-DSEQEXPORT_CPU_ONLY", "-DSEQEXPORT_ISA=baseline", f"-I{kernels}", f"-I{kernels / 'cpu'}"]
    command = [compiler, *options, *defines, kernels / "cpu" / "scaled_add.cpp"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
