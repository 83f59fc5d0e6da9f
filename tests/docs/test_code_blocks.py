"""Every code block of README.md and docs/ runs, in the order of its page, in one folder; or a comment says why not.

A block with a title is a file of that name, which blocks after it use.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, blocks

RUNS = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
SHOWN = {"text", "json", "yaml"}
"""What a page shows and nobody runs."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    for block in blocks(page):
        if block.why or block.language in SHOWN:
            continue
        if block.title:
            (tmp_path / block.title).write_text(block.code, encoding="utf-8")
            continue
        assert block.language in RUNS, f"{page.name} has a block in {block.language!r}, which nothing runs"
        done = subprocess.run(
            [*RUNS[block.language], block.code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{page.name}:\n{block.code}\n{done.stdout}{done.stderr}"


def test_a_block_that_is_not_run_says_why() -> None:
    fences = {page.name: page.read_text(encoding="utf-8").count("\n```") for page in PAGES}
    assert {page.name: 2 * len(blocks(page)) for page in PAGES} == fences
