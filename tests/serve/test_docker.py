"""The image's Dockerfile: by a linter, by what must hold of it, and its health check against a server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import click
import pytest

from seqexport.exporter.commands import serve
from seqexport.runtimes.serve.server import listen
from tests.conftest import Exported, leave_out
from tests.serve.conftest import LIMITS
from tests.serve.served import served

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "docker" / "Dockerfile"
SECRET = re.compile(r"(?i)(key|token|passw|secret)\w*=")


def instructions() -> list[tuple[str, str]]:
    """Each with its arguments, lines joined; comments are none."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n", "", "\n".join(lines)).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in whole if line)]


def arguments(name: str) -> list[str]:
    return [rest for each, rest in instructions() if each == name]


def health_check(port: int) -> int:
    command = json.loads(arguments("HEALTHCHECK")[0].partition(" CMD ")[2])
    assert command[0] == "python" and ":8000/health" in command[-1]
    script = command[-1].replace(":8000", f":{port}")
    return subprocess.run([sys.executable, *command[1:-1], script], capture_output=True).returncode


def test_a_linter_finds_nothing() -> None:
    found = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")
    if found is None:
        leave_out("the Dockerfile's linter left out: hadolint is not installed")
    ran = subprocess.run([found, FILE], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_it_runs_as_nobody_of_note_from_a_pinned_base() -> None:
    assert arguments("USER") == ["10001"] and arguments("ADD") == []
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(at for at, name in enumerate(names) if name in ("FROM", "RUN", "COPY"))
    for base in arguments("FROM"):
        assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+( AS build)?", base)
    assert not any(SECRET.search(rest) for name, rest in instructions() if name in ("ENV", "ARG"))


def test_it_is_made_of_what_the_context_lets_through() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [rest.split()[:-1] for rest in arguments("COPY") if not rest.startswith("--from")]
    assert allowed == {name for names in copied for name in names}
    assert all((ROOT / name).exists() for name in allowed)


def test_its_command_is_one_that_the_server_takes() -> None:
    program, name, *options = json.loads(arguments("ENTRYPOINT")[0])
    assert (program, name, options[-1], arguments("EXPOSE")) == ("seqexport", "serve", "8000", ["8000"])
    parsed = serve.command.make_context("serve", [*options, "bundle"])
    assert (parsed.params["host"], parsed.params["port"]) == ("0.0.0.0", 8000)
    with pytest.raises(click.exceptions.Exit):
        serve.command.make_context("serve", [*options, *json.loads(arguments("CMD")[0])])


def test_its_health_check_tells_a_server_from_none(exported: Exported) -> None:
    with served(exported("preset:mamba", target="ort", dtype="float32", logits="last"), LIMITS) as site:
        assert health_check(int(site.url.rpartition(":")[2])) == 0
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
    assert health_check(port) != 0
