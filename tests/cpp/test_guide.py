"""The guide of examples/jetson: its commands for a CPU run as they stand; the others say why they do not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import leave_out, leave_out_of_short_runs
from tests.cpp.embedded import ROOT, WHAT
from tests.docs.test_pages import HEADING, LINK, _anchor
from tests.onnxruntime.cxx import headers_and_library

GUIDE = ROOT / "examples" / "jetson" / "README.md"
BLOCK = re.compile(r"^(<!-- (?:run|not run: [^\n]+) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like one, with the archive of ONNX Runtime unpacked in it."""
    for name in ("examples", "plugins", "runtimes", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    archive = tmp_path / re.findall(r"tar xf (\S+)\.tgz", GUIDE.read_text())[0]
    (archive / "lib").mkdir(parents=True)
    include, library = headers_and_library(archive / "lib", WHAT)
    (archive / "include").symlink_to(include)
    library.with_suffix("").symlink_to(library)
    return tmp_path


def test_the_commands_for_a_cpu_lead_to_text(checkout: Path) -> None:
    leave_out_of_short_runs("the commands of examples/jetson/README.md")
    blocks = BLOCK.findall(GUIDE.read_text())
    script = "".join(code for mark, language, code in blocks if mark == "<!-- run -->\n" and language == "sh")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HOME": str(checkout), "XDG_CACHE_HOME": str(checkout / "cache")}
    for goes_on in (False, True):
        command = script if not goes_on else "build/assistant/assistant my-mamba-cpu"
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=checkout, env=environment,
                              input="The state of a\n", capture_output=True, text=True)  # fmt: skip
        if "nlohmann/json.hpp is needed" in done.stderr:
            leave_out("the guide of examples/jetson left out: no nlohmann/json.hpp (apt install nlohmann-json3-dev)")
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("assistant.safetensors: goes on after" in done.stderr) == goes_on
        assert "tokens/s" in done.stderr and "assistant.safetensors: saved after" in done.stderr
        assert len(done.stdout.split()) > 5
    assert (checkout / "my-mamba" / "model.onnx").is_file()


def test_every_block_runs_or_says_why_not() -> None:
    text = GUIDE.read_text()
    assert 2 * len(BLOCK.findall(text)) == text.count("\n```")
    assert [language for mark, language, _ in BLOCK.findall(text) if not mark] == ["text"]


def test_its_links_lead_somewhere() -> None:
    text = GUIDE.read_text()
    assert [target for target, _ in LINK.findall(text) if not (GUIDE.parent / target).is_file()] == []
    headings = {_anchor(each) for each in HEADING.findall(text)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings
