"""The file of a session is whole or not there; what is damaged, or of another model, is refused."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save

from seqexport.plugins.errors import UserError
from seqexport.runtimes import session_file
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.session_file import DIGEST, sealed
from tests.conftest import Exported
from tests.runtimes.test_sessions import LENGTHS, SAMPLED, TOKENS, made, opened, started


@pytest.fixture(scope="module")
def mamba(exported: Exported) -> Iterator[OrtRunner]:
    with opened(exported, "preset:mamba") as found:
        yield found


@pytest.fixture
def saved(mamba: OrtRunner, tmp_path: Path) -> Path:
    file = tmp_path / "saved.safetensors"
    with started(mamba) as session:
        made(session, 3, SAMPLED)
        session.save(file)
    return file


def test_sessions_of_other_models_and_dtypes_are_refused(exported: Exported, mamba: OrtRunner, saved: Path) -> None:
    with opened(exported, "untied") as other, pytest.raises(UserError, match=r"saved from another model than .*untied"):
        other.restore(saved)
    narrow = opened(exported, "preset:mamba", dtype="float16")
    with narrow, pytest.raises(UserError, match=r"saved in float32, and .* is float16; open a bundle in float32$"):
        narrow.restore(saved)
    source = msgspec.structs.replace(mamba.manifest.source, weights="")
    unknown = Bundle(mamba.bundle.path, msgspec.structs.replace(mamba.manifest, source=source))
    with OrtRunner(unknown, threads=1) as older, pytest.raises(UserError, match="does not say which weights it has"):
        older.restore(saved)


def test_damaged_and_truncated_files_are_refused(mamba: OrtRunner, saved: Path) -> None:
    whole = saved.read_bytes()
    for place in (0, 3, 9, 200, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        for spoilt in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
            saved.write_bytes(spoilt)
            with pytest.raises(UserError, match=rf"^{saved}: (damaged or cut short|not a session|format version)"):
                mamba.restore(saved)


def rewrite(file: Path, tensors: dict[str, Any] | None = None, **metadata: str) -> None:
    """Change a saved session and seal it again."""
    with safe_open(file, "numpy") as held:
        before = held.metadata()
    changed = {name: value for name, value in (load_file(file) | (tensors or {})).items() if value is not None}
    file.write_bytes(sealed(save(changed, before | metadata)))


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "missing": (lambda held: {"logits": None}, "tensor 'logits' is one too many or missing"),
    "more": (lambda held: {"more": np.zeros(1)}, "tensor 'more' is one too many or missing"),
    "type": (lambda held: {"recent": held["recent"].astype(np.int32)}, "recent is int32"),
    "shape": (
        lambda held: {"generators": held["generators"][:1]},
        r"generators is uint64 \[1\], expected uint64 \[2\]",
    ),
    "lengths": (lambda held: {"lengths": np.zeros(0, np.int32)}, "lengths are"),
    "negative": (lambda held: {"lengths": np.array([4, -1], np.int32)}, r"lengths are \[4, -1\]"),
    "no lengths": (lambda held: {"lengths": None}, "lengths are"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_with_other_tensors_are_refused(mamba: OrtRunner, saved: Path, change: str) -> None:
    edit, told = CHANGES[change]
    rewrite(saved, edit(load_file(saved)))
    with pytest.raises(UserError, match=rf"^{saved}: damaged or cut short \({told}"):
        mamba.restore(saved)


def test_files_of_others_and_of_newer_formats_are_refused(mamba: OrtRunner, saved: Path, tmp_path: Path) -> None:
    rewrite(saved, format_version="2", seqexport="9.1")
    with pytest.raises(UserError, match=r"format version 2, this seqexport reads 1; it was saved by seqexport 9\.1"):
        mamba.restore(saved)
    rewrite(saved, format_version="1", sampling=json.dumps({"temperature": -1}))
    with pytest.raises(UserError, match=r"damaged or cut short \(.*temperature.* -1"):
        mamba.restore(saved)
    saved.write_bytes(save({"x": np.zeros(2)}))
    with pytest.raises(UserError, match=r"not a session; expected a file that `save` wrote$"):
        mamba.restore(saved)
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\)$"):
        mamba.restore(tmp_path / "none")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)$"):
        mamba.restore(tmp_path)


@pytest.mark.parametrize(("put", "told"), [
    (os.mkfifo, "a pipe; expected a regular file"),
    (lambda file: file.symlink_to("/dev/zero"), "a link that leads out of its folder"),
    (lambda file: file.symlink_to(file.parent.parent / "secret"), "a link that leads out of its folder"),
], ids=["a pipe", "an endless device", "a link out"])  # fmt: skip
def test_what_is_no_file_of_its_folder_is_not_waited_for(
    mamba: OrtRunner, saved: Path, put: Callable[[Path], object], told: str
) -> None:
    saved.unlink()
    put(saved)
    with pytest.raises(UserError, match=rf"^{saved}: cannot be read \({told}"):
        mamba.restore(saved)


def test_the_file_is_safetensors_with_its_checksum_last(saved: Path) -> None:
    tensors = load_file(saved)
    assert tensors["lengths"].tolist() == [9, 6]
    assert saved.read_bytes()[-32:] == tensors[DIGEST].tobytes()


def test_a_full_disk_leaves_the_file_that_was_there(mamba: OrtRunner, saved: Path) -> None:
    before = saved.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with started(mamba) as session:
        expected = made(session, 4)
        session.reset()
        session.prefill(TOKENS, LENGTHS)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        try:
            with pytest.raises(UserError, match=rf"^{saved}: cannot be written \({os.strerror(errno.EFBIG)}\)$"):
                session.save(saved)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert made(session, 4) == expected
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_file_of_more_bytes_than_it_lists_is_refused_unread(
    mamba: OrtRunner, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(saved, 1 << 40)
    monkeypatch.setattr(session_file, "read", lambda *about: pytest.fail("read"))
    with pytest.raises(UserError, match="damaged"):
        mamba.restore(saved)


def test_a_file_that_memory_does_not_hold_is_refused(
    mamba: OrtRunner, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*about: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(session_file, "read", full)
    with pytest.raises(UserError, match=r"saved\.safetensors: .* for which there is no memory"):
        mamba.restore(saved)
