"""Where a file that a bundle or checkpoint names really lies."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath


def is_inside(folder: Path, name: str) -> bool:
    """Whether the file that ``folder`` has under a relative name is the folder's own, links followed.

    Hugging Face's cache counts as inside: there ``snapshots/<revision>/<file>`` is a link to ``blobs/<hash>``.
    """
    if not name or "\0" in name or any(_leaves(flavour(name)) for flavour in (PurePosixPath, PureWindowsPath)):
        return False
    try:
        home, target = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError):  # links in a circle
        return False
    return home in target.parents or target.parent == _blobs(home)


def _leaves(path: PurePosixPath | PureWindowsPath) -> bool:
    return bool(path.anchor) or ".." in path.parts


def _blobs(home: Path) -> Path | None:
    snapshots = next((path for path in home.parents if path.name == "snapshots"), None)
    return snapshots.parent / "blobs" if snapshots else None
