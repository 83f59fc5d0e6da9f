"""Only a library that the manifest names, of this version and undamaged, is ever used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from seqexport.plugins import folders, library
from seqexport.plugins.errors import UserError
from seqexport.plugins.library import Built


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path))
    return tmp_path


def install(folder: Path, name: str = "kernels", seqexport: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / library.FILES[name]
    path.write_bytes(b"\x7fELF" + name.encode())
    digest = library.sha256_of(path)
    entry = Built(name, path, digest, seqexport or library.version(), {"cuda": "13.0"})
    others = [each for each in library.built(folder).values() if each.name != name]
    (folder / library.MANIFEST).write_bytes(library.manifest_of([*others, entry]))
    return path


def test_the_folder_is_found_without_any_path_being_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SEQEXPORT_PLUGINS", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert library.folder() == tmp_path / ".local/share/seqexport/plugins"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert library.folder() == tmp_path / "data/seqexport/plugins"
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path / "own"))
    assert library.folder() == tmp_path / "own"


def test_a_relative_folder_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Or the library would be that of the folder which the program happens to run in."""
    (tmp_path / "listed").mkdir()
    monkeypatch.setattr("seqexport.plugins.folders._listed_home", lambda: tmp_path / "listed")
    monkeypatch.delenv("SEQEXPORT_PLUGINS", raising=False)
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "somewhere")
    assert library.folder() == tmp_path / "listed/.local/share/seqexport/plugins"
    assert folders.cache() == tmp_path / "listed/.cache"
    monkeypatch.setenv("HOME", "")
    assert library.folder() == tmp_path / "listed/.local/share/seqexport/plugins"


def test_without_a_home_nothing_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container that runs under a number: what needs no library still runs."""
    install(tmp_path / ".local/share/seqexport/plugins")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("seqexport.plugins.folders._listed_home", lambda: None)
    for name in ("SEQEXPORT_PLUGINS", "HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert library.built() == {}
    assert library.find("kernels") is None
    with pytest.raises(UserError, match=r"HOME: not set .*set HOME, or SEQEXPORT_PLUGINS to the folder"):
        library.require("kernels")


def test_nothing_built(folder: Path) -> None:
    assert library.built() == {}
    assert library.find("kernels") is None
    with pytest.raises(UserError, match=r"libseqexport_tensorrt\.so: not built.*: seqexport plugins build"):
        library.require("tensorrt")


def test_what_was_installed_is_found(folder: Path) -> None:
    paths = {name: install(folder, name) for name in library.FILES}
    assert {name: entry.path for name, entry in library.built().items()} == paths
    found = library.require("kernels")
    assert (found.path, found.built_for, found.seqexport) == (paths["kernels"], {"cuda": "13.0"}, library.version())


def test_a_file_that_the_manifest_does_not_name_is_not_used(folder: Path) -> None:
    install(folder, "tensorrt")
    (folder / library.FILES["kernels"]).write_bytes(b"\x7fELF")
    assert library.find("kernels") is None


def test_damaged(folder: Path) -> None:
    path = install(folder)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"libseqexport_kernels\.so: damaged, its sha256.*seqexport plugins build"):
        library.find("kernels")


def test_missing_file(folder: Path) -> None:
    install(folder).unlink()
    with pytest.raises(UserError, match=r"missing, though plugins\.json names it.*seqexport plugins build"):
        library.require("kernels")


def test_another_version(folder: Path) -> None:
    install(folder, seqexport="0.0.9")
    with pytest.raises(UserError, match=rf"built by seqexport 0\.0\.9, this is {library.version()}.*plugins build"):
        library.find("kernels")


ENTRY = {"file": "a.so", "sha256": "b", "seqexport": "c", "built_for": {}}
OTHERS: dict[str, Any] = {
    "a list": {"built_for": []},
    "a version of numbers": {"built_for": {"cuda": 12.4}},
    "a file elsewhere": {"file": "../a.so"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_an_entry_that_is_none(folder: Path, other: str) -> None:
    (folder / library.MANIFEST).write_text(json.dumps({"kernels": ENTRY | OTHERS[other]}))
    with pytest.raises(UserError, match=r"plugins\.json: not a manifest of plugin libraries"):
        library.built()


def test_a_library_that_is_no_file_or_lies_elsewhere_is_not_used(folder: Path) -> None:
    (folder / library.MANIFEST).write_text(json.dumps({"kernels": ENTRY}))
    os.mkfifo(folder / "a.so")
    with pytest.raises(UserError, match="a pipe; expected a regular file"):
        library.find("kernels")
    (folder / "a.so").unlink()
    (folder / "a.so").symlink_to("/bin/sh")
    with pytest.raises(UserError, match="leads out of its folder"):
        library.find("kernels")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"kernels": {}}', '{"kernels": {"file": "a", "sha256": "b"}}']
)
def test_a_manifest_that_cannot_be_read(folder: Path, text: str) -> None:
    (folder / library.MANIFEST).write_text(text)
    if text == "[]":
        assert library.built() == {}
        return
    with pytest.raises(UserError, match=r"plugins\.json: not a manifest of plugin libraries"):
        library.built()


def test_the_manifest_says_what_each_library_is(folder: Path) -> None:
    path = install(folder)
    entry = json.loads((folder / library.MANIFEST).read_text())["kernels"]
    assert entry.keys() == {"file", "sha256", "seqexport", "built_for"}
    assert entry["file"] == path.name
