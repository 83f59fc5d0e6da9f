"""The table of docs/supported.md, out of the records."""

from __future__ import annotations

import re
from pathlib import Path

from tests.exporter.families import EXPORTED
from tests.support import BACKENDS, DTYPES, records

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "supported.md"
BEGIN, END = "<!-- the table of python -m tests.support -->", "<!-- its end -->"


def releases() -> tuple[str, str]:
    """The oldest and the newest release of transformers that are supported, such as ``5.23``."""
    found = []
    for file, operator in (("pyproject.toml", ">="), (".constraints.txt", "==")):
        match = re.search(rf"transformers{operator}(\d+\.\d+)", (ROOT / file).read_text(encoding="utf-8"))
        assert match is not None
        found.append(match[1])
    return found[0], found[1]


def table() -> str:
    """Markdown: a row a family, a column a backend."""
    newest = records.of_transformers(releases()[1])
    trt = records.of_tensorrt()
    lines = [f"| family | {' | '.join(BACKENDS.values())} | transformers |", "|---" * (len(BACKENDS) + 2) + "|"]
    for family in EXPORTED:
        cells = [_words((trt if backend == "tensorrt" else newest), family, backend) for backend in BACKENDS]
        lines.append(f"| {label(family)} | {' | '.join(cells)} | {_releases(family)} |")
    return "\n".join([*lines, "", _made(newest, trt)])


def label(family: str) -> str:
    """transformers' name, and ours where it is one of several models of the family."""
    kind = EXPORTED[family].kind
    several = [name for name in EXPORTED if EXPORTED[name].kind == kind]
    return kind if len(several) == 1 else f"{kind} (`{family}`)"


def _words(record: records.Record | None, family: str, backend: str) -> str:
    dtypes = [] if record is None else record.dtypes(family, backend)
    return " ".join(word for dtype, word in DTYPES.items() if dtype in dtypes) or "–"


def _releases(family: str) -> str:
    return ", ".join(
        release for release in releases() if "float32" in records.of_transformers(release).dtypes(family, "portable")
    )


def _made(newest: records.Record, trt: records.Record | None) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in newest.versions.items())
    oldest = records.of_transformers(releases()[0])
    lines = [f"CPU: {versions}, {newest.date}; transformers {oldest.versions['transformers']} on {oldest.date}."]
    if trt is not None:
        lines.append(f"TensorRT: {', '.join(trt.versions.values())}, {trt.date}.")
    return " ".join(lines)


def written(page: str) -> str:
    """The page with the table as it is to be."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"
