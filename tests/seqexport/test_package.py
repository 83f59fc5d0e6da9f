"""``import seqexport``: what it offers and how little it loads."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import seqexport

HEAVY = ("torch", "onnx", "onnx_ir", "transformers", "onnxruntime", "numpy", "tensorrt", "matplotlib", "jinja2")
LOADED = f"import sys, seqexport; dir(seqexport); print([name for name in {HEAVY} if name in sys.modules])"


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False)


def test_importing_loads_nothing_heavy() -> None:
    done = python("-c", LOADED)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_everything_public_is_there_and_explained() -> None:
    assert set(dir(seqexport)) == set(seqexport.__all__)
    for name in seqexport.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(seqexport, name)), name


@pytest.mark.parametrize("name", ["Model", "Session", "Bundle"])
def test_methods_of_public_classes_are_explained(name: str) -> None:
    methods = inspect.getmembers(getattr(seqexport, name), inspect.isfunction)
    assert [method for method, member in methods if method[0] != "_" and not inspect.getdoc(member)] == []


def test_ops_have_real_signatures() -> None:
    for name in seqexport.ops.__all__:
        op = getattr(seqexport.ops, name)
        signature = inspect.signature(op)
        assert all(p.annotation is not p.empty for p in signature.parameters.values()), name
        assert signature.return_annotation is not signature.empty
        assert "Args:" in inspect.getdoc(op) or name in ("embedding", "last_token"), name


def test_version() -> None:
    assert seqexport.__version__ == importlib.metadata.version("seqexport")


def test_unknown_names_are_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'seqexport' has no attribute 'nothing'"):
        _ = seqexport.nothing


def test_the_module_runs_the_command_line() -> None:
    done = python("-m", "seqexport", "--version")
    assert (done.returncode, done.stdout) == (0, f"seqexport, version {seqexport.__version__}\n")
