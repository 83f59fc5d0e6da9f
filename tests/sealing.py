"""A bundle that was changed, and says so nowhere: its manifest has the hashes of what lies there."""

from __future__ import annotations

from pathlib import Path

import msgspec

from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import Bundle, open_bundle, write_manifest


def reseal(folder: Path) -> Bundle:
    manifest = open_bundle(folder, check_files=False).manifest
    sealed = msgspec.structs.replace(manifest, files={name: sha256(folder / name) for name in manifest.files})
    write_manifest(folder, sealed)
    return Bundle(folder, sealed)
