"""libseqexport finds the op library by the rules that Python has; ``test_sessions.py`` has the real one compute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqexport.plugins import library, toolchain
from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.ort.library import NAME, OpsLibrary
from tests.conftest import Exported, leave_out
from tests.cpp.embedded import WHAT, Installed, run

LOADS = 'extern "C" void* RegisterCustomOps(void*, const void*) { return nullptr; }'
"""An op library without ops: function bodies run where it is used too."""

FILE = "libseqexport_ort-0123456789ab.so"


def compiled(file: Path, source: str = LOADS) -> Path:
    if (compiler := toolchain.find_toolchain().cxx.path) is None:
        leave_out(f"{WHAT} left out: no C++")
    (file.parent / "ops.cpp").write_text(source)
    done = run(compiler, "-shared", "-fPIC", file.parent / "ops.cpp", "-o", file)
    assert done.returncode == 0, done.stderr
    return file


def describe(made: Path, **changes: object) -> None:
    """Writes the manifest beside a library."""
    entry = {"file": made.name, "sha256": sha256(made), "seqexport": library.version(), "built_for": {}, **changes}
    (made.parent / library.MANIFEST).write_text(json.dumps({"onnxruntime": entry}))


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library where ``seqexport plugins build`` puts it."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    file = compiled(folder / FILE)
    describe(file)
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(folder))
    return file


def told(package: Installed, bundle: Bundle, *flags: object, env: dict[str, str] | None = None) -> str:
    """What computes the ops."""
    done = package.run(bundle.path, "--tokens=84", "--max-new-tokens=1", "--verbose", *flags, env=env)
    assert done.code == 0, done.err
    return done.err.strip().partition("target ort, ")[2]


def refused(package: Installed, bundle: Bundle, *flags: object) -> str:
    return package.run(bundle.path, "--tokens=84", *flags).refusal


def python(bundle: Bundle) -> str:
    return str(OpsLibrary.for_graph(bundle.manifest.ops, "cpu", plugins=True))


def test_the_library_that_was_built_is_used(package: Installed, mamba: Bundle, built: Path) -> None:
    assert told(package, mamba) == python(mamba) == f"ops by {NAME} {library.version()}"
    assert told(package, mamba, "--plugins", built) == f"ops by {NAME} {library.version()}"
    assert told(package, mamba, "--no-plugins") == "ops by function bodies (no plugins are wanted)"


@pytest.mark.parametrize("place", ["XDG_DATA_HOME", "HOME", "~"])
def test_where_it_is_looked_for(
    package: Installed, mamba: Bundle, built: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"XDG_DATA_HOME": "seqexport/plugins", "HOME": ".local/share/seqexport/plugins", "~": "mine"}
    (tmp_path / folders[place]).parent.mkdir(parents=True, exist_ok=True)
    built.parent.rename(tmp_path / folders[place])
    for variable in ("SEQEXPORT_PLUGINS", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("HOME" if place == "~" else place, str(tmp_path))
    if place == "~":
        monkeypatch.setenv("SEQEXPORT_PLUGINS", "~/mine")
    assert told(package, mamba) == python(mamba) == f"ops by {NAME} {library.version()}"


def test_what_was_never_built_is_not_used(package: Installed, mamba: Bundle, built: Path, exported: Exported) -> None:
    (built.parent / library.MANIFEST).unlink()
    built.rename(built.with_name(NAME))  # no manifest says whose it is
    assert told(package, mamba) == python(mamba) == f"ops by function bodies ({NAME} is not built)"
    needs = exported("preset:mamba", target="tensorrt")
    told_why = refused(package, needs)
    assert f"needs the library of our ops ({NAME} is not built); build it: seqexport plugins build" in told_why
    assert "no plugins are wanted" in refused(package, needs, "--no-plugins")


def test_one_that_does_not_load_is_passed_over_unless_it_was_asked_for(
    package: Installed, mamba: Bundle, built: Path
) -> None:
    describe(compiled(built, 'extern "C" void nothing() {}'))
    assert told(package, mamba).startswith(f"ops by function bodies ({built}: does not load here: ")
    assert python(mamba).startswith(f"ops by function bodies ({NAME} does not load here: ")
    assert f"{built}: does not load here: " in refused(package, mamba, "--plugins", built)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"sha256": "0" * 64}, "damaged, its sha256 is not the one that plugins.json has"),
        ({"seqexport": "0.0.9"}, f"built by seqexport 0.0.9, this is {library.version()}"),
        ({"file": "libseqexport_ort-gone.so"}, "missing, though plugins.json names it"),
        ({"file": "../x.so"}, "not a manifest of plugin libraries"),
        ({"built_for": {"cuda": 12}}, "not a manifest of plugin libraries"),
        ({"sha256": None}, "not a manifest of plugin libraries"),
    ],
    ids=str,
)  # fmt: skip
def test_the_manifest_decides(
    package: Installed, mamba: Bundle, built: Path, change: dict[str, object], fault: str
) -> None:
    describe(built, **change)
    refusal = refused(package, mamba)
    assert fault in refusal and refusal.endswith("seqexport plugins build")
    if "file" not in change:
        assert refused(package, mamba, "--plugins", built) == refusal
    assert told(package, mamba, "--no-plugins") == "ops by function bodies (no plugins are wanted)"


def test_libraries_that_are_given(package: Installed, mamba: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "mine.so"
    assert refused(package, mamba, "--plugins", file) == f"{file}: no such file; --plugins takes the path of {NAME}"
    whole = compiled(file).read_bytes()
    assert told(package, mamba, "--plugins", file) == "ops by mine.so"
    file.write_bytes(whole[: len(whole) // 2])
    assert f"{file}: damaged, not a whole shared library" in refused(package, mamba, "--plugins", file)
    for flags in (["--plugins=x", "--no-plugins"], ["--no-plugins", "--plugins=x"]):
        assert f"{flags[1].partition('=')[0]} excludes {flags[0].partition('=')[0]}" in refused(package, mamba, *flags)
