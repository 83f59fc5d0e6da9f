"""Puts compiled libraries where ``library`` finds them: each under a name of its content, and then their manifest."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.plugins.files import remove
from seqexport.plugins.library import Built
from seqexport.plugins.publish import Claim, claimed

OURS = re.compile(r"libseqexport_[a-z]+(-[0-9a-f]{16})?\.so")
"""With a hash; or without, as they were named once."""


def install(output: Path, compiled: Mapping[str, Path], built_for: Mapping[str, dict[str, str]]) -> list[Built]:
    """Put libraries in place, by name; one that is not among them stays, if it works.

    Raises:
        OSError: they cannot be written; the manifest still names what was there.
    """
    with claimed(output / library.MANIFEST) as claim:
        before, there = _readable(output), set(output.iterdir())
        try:
            new = [_installed(claim, name, file, built_for[name]) for name, file in compiled.items()]
            kept = [built for name, built in before.items() if name not in compiled and not built.fault]
            with claim.file() as manifest:
                manifest.write_bytes(library.manifest_of([*kept, *new]))
        except BaseException:
            _remove_unnamed(set(output.iterdir()) - there, output)
            raise
        _remove_unnamed(list(output.iterdir()), output)
    return new


def _installed(claim: Claim, name: str, file: Path, built_for: dict[str, str]) -> Built:
    digest = library.sha256_of(file)
    place = claim.output.with_name(f"{Path(library.FILES[name]).stem}-{digest[:16]}.so")
    with claim.file(place.name) as written:
        shutil.copyfile(file, written)
    return Built(name, place, digest, library.version(), built_for)


def _remove_unnamed(files: Iterable[Path], output: Path) -> None:
    """Libraries that the manifest does not name: replaced, or left by a build that was killed."""
    named = {built.path.name for built in _readable(output).values()}
    for file in files:
        if OURS.fullmatch(file.name) and file.name not in named:
            remove(file)


def _readable(output: Path) -> dict[str, Built]:
    try:
        return library.built(output)
    except UserError:
        return {}
