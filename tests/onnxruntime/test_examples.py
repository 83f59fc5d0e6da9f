"""The examples, as a stranger would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqexport.runtimes.ort.runner import OrtRunner
from tests.conftest import Exported
from tests.onnxruntime.cxx import headers_and_library

ROOT = Path(__file__).parents[2]
MODELS = pytest.mark.parametrize("model", ["preset:mamba", "preset:transformer"])
STEPS = 12


@pytest.fixture
def greedy(exported: Exported) -> Callable[[str, list[int], int], list[int]]:
    """The likeliest tokens after a text, by the function bodies."""

    def tokens(model: str, text: list[int], count: int) -> list[int]:
        bundle = exported(model, target="portable", dtype="float32", logits="last")
        with OrtRunner(bundle, threads=1, plugins=False) as runner, runner.session(1, 64) as session:
            found = [int(session.prefill(np.array([text]))[0, -1].argmax())]
            while len(found) < count:
                found.append(int(session.step(np.array(found[-1:])).argmax()))
        return found

    return tokens


@MODELS
def test_python(exported: Exported, native_library: Callable[[str], Path], greedy: Callable[..., list[int]],
                model: str) -> None:  # fmt: skip
    bundle = exported(model, target="portable", dtype="float32", logits="last")
    script = ROOT / "examples" / "onnxruntime_python.py"
    done = subprocess.run(
        [sys.executable, script, native_library("onnxruntime"), bundle.path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = [ord(letter) for letter in "The state of a "]
    assert done.stdout.strip() == str(text + greedy(model, text, 48 - len(text)))


@MODELS
def test_the_lines_of_the_docs(exported: Exported, native_library: Callable[[str], Path],
                                 greedy: Callable[..., list[int]], model: str) -> None:  # fmt: skip
    bundle = exported(model, target="portable", dtype="float32", logits="last")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "onnxruntime.md").read_text(), re.DOTALL)
    (lines,) = [block for block in blocks if "register_custom_ops_library" in block]
    lines = lines.replace("libseqexport_ort.so", str(native_library("onnxruntime")))
    names: dict[str, Any] = {}
    exec(lines.replace("my-mamba/model.onnx", str(bundle.model)), names)
    assert [int(names["next_token"])] == greedy(model, [12, 7, 99], 1)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, native_plugins: Path) -> Path:
    """The C++ example, linked with the ONNX Runtime that Python has."""
    folder = tmp_path_factory.mktemp("example")
    include, linked = headers_and_library(folder, "the C++ example")
    options = [f"-DORT_INCLUDE_DIR={include}", f"-DORT_LIBRARY={linked}", "-DCMAKE_BUILD_TYPE=Release"]
    configure = ["cmake", "-S", ROOT / "examples" / "onnxruntime_cpp", "-B", folder, *options]
    for command in (configure, ["cmake", "--build", folder]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "onnxruntime_example"


@MODELS
def test_cpp(exported: Exported, native_library: Callable[[str], Path], greedy: Callable[..., list[int]],
             program: Path, model: str) -> None:  # fmt: skip
    bundle = exported(model, target="portable", dtype="float32", logits="last")
    command = [program, native_library("onnxruntime"), bundle.model, str(STEPS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [int(word) for word in done.stdout.split()] == greedy(model, [1], STEPS)


def test_cpp_says_what_is_wrong(native_library: Callable[[str], Path], program: Path, tmp_path: Path) -> None:
    done = subprocess.run([program, native_library("onnxruntime"), tmp_path / "none"], capture_output=True, text=True)
    assert done.returncode == 1 and "none" in done.stderr and len(done.stderr.splitlines()) == 1
