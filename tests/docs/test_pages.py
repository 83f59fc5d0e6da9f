"""What README.md and docs/ promise beside their code: links that lead somewhere, messages, a short README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from seqexport.exporter.flags import flags
from tests.docs.pages import PAGES, ROOT, blocks

LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(?:#([^)\s]+))?\)")
PATH = re.compile(r"`((?:exporter|plugins|runtimes|tests|examples)/[\w./-]+)`")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_a_file(page: Path) -> None:
    """Those of docs/ stay in it, so that mkdocs has them too."""
    for target, heading in LINK.findall(page.read_text(encoding="utf-8")):
        file = (page.parent / target).resolve()
        assert file.exists(), f"{page.name}: {target}"
        assert page.parent == ROOT or file.is_relative_to(ROOT / "docs"), f"{page.name}: {target}"
        if heading:
            found = {_anchor(each) for each in HEADING.findall(file.read_text(encoding="utf-8"))}
            assert heading in found, f"{page.name}: {target}#{heading}"


def _anchor(heading: str) -> str:
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    made = {block.title for block in blocks(page)}
    named = set(PATH.findall(page.read_text(encoding="utf-8"))) - made
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    programs = re.findall(r"python -m seqexport\.([\w.]+)", page.read_text(encoding="utf-8"))
    assert [each for each in programs if not _is_program(ROOT / each.replace(".", "/"))] == []


def _is_program(module: Path) -> bool:
    return module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"[\w-]+\.md", str(yaml.safe_load(text)["nav"]))
    assert sorted(listed) == sorted(page.name for page in PAGES if page.parent != ROOT)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200


def test_messages_of_the_troubleshooting_page_are_still_given() -> None:
    """A heading quotes a message as the command line says it; what differs from case to case is an ellipsis."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^#{2,3} `(.+)`$", page, re.MULTILINE)
    assert len(quoted) >= 20
    folders = ("exporter", "plugins", "runtimes")
    files = [file for folder in folders for kind in ("py", "cpp", "h") for file in (ROOT / folder).rglob(f"*.{kind}")]
    sources = "\n".join(_joined(file.read_text(encoding="utf-8")) for file in files)
    sources += flags(sources)
    for message in quoted:
        for part in (part.strip() for part in message.split("…")):
            assert part in sources, f"no source says: {part}"


def _joined(source: str) -> str:
    """Source text whose strings that stand side by side are one, without the quotes and f's between them."""
    return re.sub(r'"\s*\n\s*f?r?"', "", source)
