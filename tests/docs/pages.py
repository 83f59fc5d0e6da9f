"""README.md and docs/, and the code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?"
    r'```(?P<language>\w*)(?: title="(?P<title>[^"\n]+)")?\n(?P<code>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        why: why it is not run; empty where it is.
        title: the file that it is, where it says so.
    """

    language: str
    code: str
    why: str
    title: str


def blocks(page: Path) -> list[Block]:
    return [
        Block(found["language"], found["code"], found["why"] or "", found["title"] or "")
        for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]
