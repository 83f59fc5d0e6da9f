"""Small trained models that ship inside, to try things out."""

from __future__ import annotations

from pathlib import Path

from seqexport.plugins.errors import UserError

PRESETS = {name: Path(__file__).parent / name for name in ("mamba", "mamba2", "transformer", "hybrid")}
HELD_OUT = Path(__file__).parent / "heldout.txt"
"""A text that they were not trained on."""

PREFIX = "preset:"


def resolve_source(model: str) -> str:
    """The folder or hub id to load; ``preset:NAME`` is a model that ships inside.

    Raises:
        UserError: no such preset.
    """
    if not model.startswith(PREFIX):
        return model
    name = model.removeprefix(PREFIX)
    if name not in PRESETS:
        raise UserError(f"preset {name!r}: expected one of {', '.join(sorted(PRESETS))}")
    return str(PRESETS[name])
