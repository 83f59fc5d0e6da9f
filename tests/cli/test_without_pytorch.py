"""The command line on a machine without PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_PYTORCH = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "huggingface_hub"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nowhere())
from seqexport.exporter.cli import main
main()
"""


def without_pytorch(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_PYTORCH, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["verify"], "logits along decode"),
        (["inspect"], "recurrent_state"),
        (["generate", "--prompt", "def ", "--max-new-tokens", "4"], "def "),
    ],
    ids=["verify", "inspect", "generate"],
)
def test_a_machine_without_pytorch_runs_bundles(shipped: Path, args: list[str], expected: str) -> None:
    result = without_pytorch(args[0], shipped, *args[1:])
    assert (result.returncode, result.stderr) == (0, "")
    assert expected in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate", "--prompt", "x", "--backend", "torch"], "the backend 'torch' needs torch"),
        (["onnx"], "exporting needs"),
        (["onnx", "--module", "m:f", "--input", "x=1"], "exporting needs"),
    ],
    ids=["generate", "onnx", "module"],
)
def test_a_machine_without_pytorch_says_what_needs_it(shipped: Path, args: list[str], message: str) -> None:
    result = without_pytorch(args[0], *([shipped] if args[0] == "generate" else []), *args[1:])
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.endswith("pip install 'seqexport[export]'\n")
