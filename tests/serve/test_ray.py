"""Two replicas of Ray Serve on this machine: sessions stay with one, and outlive it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from seqexport.runtimes.model import Model
from seqexport.runtimes.ort.runner import OrtRunner
from tests.conftest import Exported
from tests.serve.ray_site import EXAMPLE, PATIENCE, Site, ray_python, ray_site
from tests.serve.served import wait_until

BATCH = 4
"""Requests in a replica."""
SESSIONS, LONG, SHORT = 16, 128, 8


@dataclass
class Talk:
    """A session, and all that it has read."""

    name: str
    seed: int
    read: str = ""

    def body(self, prompt: str, tokens: int) -> dict[str, Any]:
        return {"prompt": prompt, "max_tokens": tokens, "temperature": 0.8, "seed": self.seed, "session_id": self.name}


@dataclass(frozen=True)
class Answer:
    """What came of a stream."""

    status: int
    text: str
    error: str
    done: bool


def ask(site: Site, talk: Talk, prompt: str, tokens: int) -> Answer:
    body = talk.body(prompt, tokens) | {"model": site.model, "stream": True}
    text, error, done = "", "", False
    with httpx.stream(
        "POST", f"{site.url}/v1/completions", json=body, headers={"x-session-id": talk.name}, timeout=PATIENCE
    ) as response:
        if response.status_code != 200:
            return Answer(response.status_code, "", json.loads(response.read())["error"]["message"], False)
        for line in response.iter_lines():
            done = done or line == "data: [DONE]"
            if line.startswith("data: {"):
                event = json.loads(line[len("data: ") :])
                error += event.get("error", {}).get("message", "")
                text += "".join(choice["text"] for choice in event.get("choices", ()))
    return Answer(200, text, error, done)


def ask_all(site: Site, talks: list[Talk], prompt: str, tokens: int, model: Model) -> None:
    """Of all at once; each answer is the one that its text alone gets."""
    with ThreadPoolExecutor(SESSIONS) as pool:
        answers = list(pool.map(lambda talk: ask(site, talk, prompt, tokens), talks))
    for talk, answer in zip(talks, answers, strict=True):
        assert (answer.status, answer.error, answer.done) == (200, "", True)
        talk.read += prompt
        assert answer.text == alone(model, talk, tokens)
        talk.read += answer.text


def alone(model: Model, talk: Talk, tokens: int) -> str:
    return model.generate(talk.read, max_new_tokens=tokens, temperature=0.8, seed=talk.seed)[0]


@pytest.fixture(scope="module")
def site(exported: Exported) -> Iterator[Site]:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    with ray_site(bundle.path, BATCH) as found:
        yield found


@pytest.fixture
def model(runner: OrtRunner) -> Model:
    return Model(runner)


def homes(site: Site, talks: list[Talk]) -> dict[str, int]:
    """The replica that goes on with each session, by its process, while all are answered."""
    found: dict[str, int] = {}
    with ThreadPoolExecutor(len(talks)) as pool:
        asked = [pool.submit(ask, site, talk, "The ", LONG) for talk in talks]
        wait_until(lambda: found.update(look(site)) or len(found) == len(talks), PATIENCE)
        assert all(each.result().done for each in asked)
    return found


def look(site: Site) -> dict[str, int]:
    return {name: replica.pid for replica in site.replicas() for name in site.held(replica)}


def test_a_session_stays_with_its_replica(site: Site) -> None:
    talks = [Talk(site.new_session(), seed) for seed in range(BATCH)]
    first = homes(site, talks)
    assert homes(site, talks) == first
    assert set(first.values()) <= {replica.pid for replica in site.replicas()}


def kill_one_that_is_full(site: Site) -> set[str]:
    """Kill a replica that answers as many as it may; gives the sessions that it went on with."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for replica in site.replicas():
            replica.suspend()
            if len(held := site.held(replica)) == BATCH:
                replica.kill()
                return held
            replica.resume()
    raise AssertionError("no replica was full")


def test_a_killed_replica_loses_only_what_it_was_answering(site: Site, model: Model) -> None:
    talks = [Talk(site.new_session(), seed) for seed in range(SESSIONS)]
    ask_all(site, talks, "The state of a", SHORT, model)
    before = {talk.name: site.tokens(talk.name) for talk in talks}
    with ThreadPoolExecutor(SESSIONS) as pool:
        asked = [pool.submit(ask, site, talk, " and", LONG) for talk in talks]
        lost = kill_one_that_is_full(site)
        answers = [each.result() for each in asked]
    assert {talk.name for talk, answer in zip(talks, answers, strict=True) if not answer.done} == lost
    again = []
    for talk, answer in zip(talks, answers, strict=True):
        whole = alone(model, Talk(talk.name, talk.seed, talk.read + " and"), LONG)
        if answer.done:
            assert (answer.status, answer.text, answer.error) == (200, whole, "")
        else:
            assert answer.error == "the replica that was answering is gone; ask again"
            assert answer.status in (200, 503) and whole.startswith(answer.text)
        if site.tokens(talk.name) == before[talk.name]:
            assert not answer.done
            again.append(talk)
        else:
            talk.read += " and" + whole
    ask_all(site, again, " and", LONG, model)  # as if nothing had happened
    ask_all(site, talks, ".\n", SHORT, model)
    wait_until(lambda: len(site.replicas()) == 2, PATIENCE)
    ask_all(site, talks, "It", SHORT, model)
    files = list(site.sessions.iterdir())
    assert {file.suffix for file in files} == {".safetensors"}
    assert {file.stem for file in files} >= {talk.name for talk in talks}


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    ran = subprocess.run(
        [ray_python(), EXAMPLE / "run.py", tmp_path, "--session-dir", tmp_path / "sessions"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2 and "is not a bundle" in ran.stderr and "Traceback" not in ran.stderr
    assert not (tmp_path / "sessions").exists()
