"""A bundle as huggingface_hub keeps it in its cache: every file a link into the repository's blobs."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from seqexport.runtimes.bundle import Bundle


def in_hub_cache(bundle: Bundle, root: Path) -> Bundle:
    repository = root / "models--someone--tiny"
    snapshot, blobs = repository / "snapshots" / ("ab" * 20), repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in filter(Path.is_file, bundle.path.iterdir()):
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return Bundle(snapshot, bundle.manifest)
