"""Where cuBLASLt is looked for, and what is said where it is not."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.runtimes import cublas
from seqexport.runtimes.trt import versions


@pytest.fixture(autouse=True)
def uncached() -> Iterator[None]:
    cublas.load.cache_clear()
    yield
    cublas.load.cache_clear()


def only(monkeypatch: pytest.MonkeyPatch, *places: str) -> list[str]:
    """A machine where these libraries alone can be loaded; gives what was asked for, in order."""
    asked: list[str] = []

    def load(place: str) -> None:
        asked.append(place)
        if place not in places:
            raise OSError(f"{place}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    return asked


def test_that_of_the_cuda_which_built_the_library_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = only(monkeypatch, "libcublasLt.so.12", "libcublasLt.so.13")
    assert cublas.load(12) == "libcublasLt.so.12"
    assert asked == ["libcublasLt.so.12"]


def test_pips_is_found_where_the_library_path_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cublas, "pip_folders", lambda: [tmp_path])
    only(monkeypatch, f"{tmp_path}/libcublasLt.so.13")
    assert cublas.load(13) == f"{tmp_path}/libcublasLt.so.13"


def test_none_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    built = library.Built("tensorrt", Path("lib.so"), "0", "0.1.0", {"tensorrt": "8.6.0", "cuda": "12.2.0"})
    monkeypatch.setattr(library, "require", lambda name: built)
    monkeypatch.setattr(cublas, "pip_folders", list)
    only(monkeypatch)
    with pytest.raises(UserError, match=r"no libcublasLt on the library path .*pip install nvidia-cublas"):
        versions.load_plugins(SimpleNamespace(__version__="8.6.0"))
