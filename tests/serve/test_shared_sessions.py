"""Sessions of one folder that several servers have, as one process after the other goes on with them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.serve import shared_sessions
from seqexport.runtimes.serve.sessions import InUse, Sessions, Unknown
from seqexport.runtimes.serve.shared_sessions import SharedSessions
from seqexport.runtimes.snapshot import Snapshot
from tests.conftest import Exported
from tests.serve.conftest import LIMITS
from tests.serve.served import served, wait_until
from tests.serve.test_sessions import PROMPT, alone, same

ROOM = 1 << 24


@pytest.fixture
def snapshots(runner: OrtRunner) -> Iterator[list[Snapshot]]:
    with runner.session() as session:
        found = []
        for token in range(65, 69):
            session.step(np.array([token]))
            found.append(session.read_row(0))
        yield found


@pytest.fixture
def both(runner: OrtRunner, tmp_path: Path) -> Iterator[tuple[SharedSessions, SharedSessions]]:
    with SharedSessions(runner.bundle, ROOM, tmp_path) as one, SharedSessions(runner.bundle, ROOM, tmp_path) as other:
        yield one, other


def go_on(sessions: Sessions, name: str, before: Snapshot | None, after: Snapshot) -> None:
    found = sessions.take(name)
    assert found is None if before is None else same(found, before)
    assert sessions.tokens(name) == (0 if before is None else before.position)
    sessions.give(name, after)


def test_each_goes_on_where_the_other_ended(
    both: tuple[SharedSessions, SharedSessions], snapshots: list[Snapshot], tmp_path: Path
) -> None:
    one, other = both
    name = one.create()
    go_on(other, name, None, snapshots[0])
    go_on(one, name, snapshots[0], snapshots[1])
    go_on(one, name, snapshots[1], snapshots[2])
    go_on(other, name, snapshots[2], snapshots[3])  # which had an older one in memory
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}.safetensors"]
    other.delete(name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(Unknown):
        one.take(name)
    assert one.nbytes == other.nbytes == 0


def test_one_of_both_takes_a_session(
    both: tuple[SharedSessions, SharedSessions], snapshots: list[Snapshot], tmp_path: Path
) -> None:
    one, other = both
    name = other.create()
    assert one.take(name) is None
    for sessions in both:
        with pytest.raises(InUse):
            sessions.take(name)
        with pytest.raises(InUse):
            sessions.delete(name)
    one.give(name, None)  # its request failed
    go_on(other, name, None, snapshots[0])
    assert other.take(name) is snapshots[0]
    other.give(name, snapshots[0])
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}.safetensors"]


def test_a_copy_in_memory_is_used_as_long_as_it_is_the_newest(
    both: tuple[SharedSessions, SharedSessions], snapshots: list[Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = both
    name = one.create()
    go_on(one, name, None, snapshots[0])
    assert one.take(name) is snapshots[0]
    one.give(name, snapshots[1])
    assert one.nbytes == snapshots[1].nbytes
    assert same(other.take(name), snapshots[1])
    other.give(name, snapshots[2])
    found = one.take(name)
    assert found is not snapshots[1] and same(found, snapshots[2])
    assert one.nbytes == snapshots[2].nbytes


def test_without_room_in_memory_it_is_read_each_time(
    runner: OrtRunner, snapshots: list[Snapshot], tmp_path: Path
) -> None:
    with SharedSessions(runner.bundle, 0, tmp_path) as sessions:
        name = sessions.create()
        go_on(sessions, name, None, snapshots[0])
        assert sessions.nbytes == 0
        go_on(sessions, name, snapshots[0], snapshots[1])
    with Sessions(runner.bundle, 0, tmp_path) as alone_there:
        go_on(alone_there, name, snapshots[1], snapshots[2])


def test_names_that_are_none_touch_no_file(both: tuple[SharedSessions, SharedSessions], tmp_path: Path) -> None:
    (tmp_path.parent / "outside.safetensors").write_bytes(b"x" * 64)
    for name in ("", "a" * 22, "../outside", "a/b", "\x00" * 22):
        with pytest.raises(Unknown):
            both[0].take(name)
        with pytest.raises(Unknown):
            both[0].delete(name)
        with pytest.raises(Unknown):
            both[0].tokens(name)
    assert not list(tmp_path.iterdir())


def test_a_session_that_cannot_be_written_is_as_it_was(
    both: tuple[SharedSessions, SharedSessions], snapshots: list[Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = both
    name = one.create()
    go_on(one, name, None, snapshots[0])

    def full(*about: object) -> None:
        raise UserError("no space left")

    assert one.take(name) is snapshots[0]
    with monkeypatch.context() as patch:
        patch.setattr(shared_sessions, "write_session", full)
        with pytest.raises(UserError, match="no space"):
            one.give(name, snapshots[1])
    go_on(other, name, snapshots[0], snapshots[2])
    go_on(one, name, snapshots[2], snapshots[3])


@pytest.mark.parametrize("damaged", [b"cut short", b""])
def test_a_damaged_file_is_no_session(
    damaged: bytes, both: tuple[SharedSessions, SharedSessions], snapshots: list[Snapshot], tmp_path: Path
) -> None:
    one, _ = both
    name = one.create()
    go_on(one, name, None, snapshots[0])
    (tmp_path / f"{name}.safetensors").write_bytes(damaged)
    for look in (one.take, one.tokens, one.take):
        with pytest.raises(Unknown):
            look(name)
    assert not (tmp_path / f"{name}.lock").exists()


def test_the_oldest_beyond_the_most_go_but_none_in_use(
    both: tuple[SharedSessions, SharedSessions], snapshots: list[Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = both
    monkeypatch.setattr(shared_sessions, "MOST", 3)
    names = []
    for age in (40, 30, 20):
        names.append(one.create())
        os.utime(one._beside(names[-1], ".empty"), (1e9 - age, 1e9 - age))
    assert one.take(names[0]) is None
    names.append(other.create())
    one.give(names[0], snapshots[0])
    names.append(one.create())
    gone = []
    for name in names:
        try:
            other.take(name)
        except Unknown:
            gone.append(names.index(name))
    assert gone == [1, 2]


def _hold(bundle: Path, folder: Path, name: str, taken: Any) -> None:
    sessions = SharedSessions(open_bundle(bundle), ROOM, folder)
    sessions.take(name)
    taken.set()
    signal.pause()


def test_a_killed_process_leaves_its_session_to_others(
    runner: OrtRunner, snapshots: list[Snapshot], tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    taken = spawn.Event()
    with SharedSessions(runner.bundle, ROOM, tmp_path) as sessions:
        name = sessions.create()
        go_on(sessions, name, None, snapshots[0])
        child = spawn.Process(target=_hold, args=(runner.bundle.path, tmp_path, name, taken))
        child.start()
        assert taken.wait(120)
        with pytest.raises(InUse):
            sessions.take(name)
        child.kill()
        child.join()
        go_on(sessions, name, snapshots[0], snapshots[1])
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}.safetensors"]


@pytest.fixture
def bundle(exported: Exported) -> Bundle:
    return exported("preset:mamba", target="ort", dtype="float32", logits="last")


def test_two_servers_go_on_with_one_session(bundle: Bundle, runner: OrtRunner, tmp_path: Path) -> None:
    with served(bundle, LIMITS, tmp_path, shared=True) as one, served(bundle, LIMITS, tmp_path, shared=True) as other:
        name = one.post("/v1/sessions").json()["id"]
        body = {"model": one.model, "max_tokens": 12, "temperature": 0.8, "seed": 4, "session_id": name}
        read = PROMPT
        for site, prompt in ((one, PROMPT), (other, " and"), (one, ""), (other, ", or")):
            read += prompt if site is not one or prompt == "" else ""
            answer = site.post("/v1/completions", json=body | {"prompt": prompt}).json()["choices"][0]["text"]
            assert answer == alone(runner, read)
            read += answer


def test_an_answer_whose_session_is_not_kept_fails_and_may_be_asked_again(
    bundle: Bundle, runner: OrtRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*about: object) -> None:
        raise UserError("no space left")

    with served(bundle, LIMITS, tmp_path, shared=True) as site:
        name = site.post("/v1/sessions").json()["id"]
        body = {"model": site.model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0.8, "seed": 4}
        body["session_id"] = name
        with monkeypatch.context() as patch:
            patch.setattr(shared_sessions, "write_session", full)
            failed = site.post("/v1/completions", json=body)
            assert failed.status_code == 500 and failed.json()["error"]["message"] == "no space left"
            stream = site.post("/v1/completions", json=body | {"stream": True}).text
            assert '"no space left"' in stream and "[DONE]" not in stream
        wait_until(lambda: site.service.idle)
        answer = site.post("/v1/completions", json=body).json()["choices"][0]["text"]
        assert answer == alone(runner, PROMPT)
        with site.service.sessions._lock:
            assert not site.service.sessions._taken
