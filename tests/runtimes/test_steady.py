"""A folder that is replaced while it is read is read again, also where the new one has the old one's number."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seqexport.runtimes.steady import steady


@pytest.mark.parametrize("fails", [True, False])
def test_a_folder_that_is_replaced_meanwhile_is_read_again(tmp_path: Path, fails: bool) -> None:
    (tmp_path / "out").mkdir()
    seen = []

    @steady
    def read(path: str | os.PathLike[str]) -> int:
        seen.append(Path(path).stat().st_ino)
        if len(seen) <= 2:
            Path(path).rmdir()
            Path(path).mkdir()
            if fails:
                raise OSError("half of each")
        return len(seen)

    assert read(tmp_path / "out") == 3
    assert len(set(seen)) > 1


@pytest.mark.parametrize("name", ["file", "nothing", "folder"])
def test_what_stays_is_read_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    seen = []

    @steady
    def read(path: str | os.PathLike[str]) -> None:
        seen.append(path)
        raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        read(tmp_path / name)
    assert len(seen) == 1
