"""Sessions between calls, and beginnings of prompts that are read once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from seqexport.plugins.errors import UserError
from seqexport.runtimes.model import Model
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.serve.engine import Engine
from seqexport.runtimes.serve.prefixes import Prefixes
from seqexport.runtimes.serve.requests import End, Request
from seqexport.runtimes.serve.sessions import InUse, Sessions, Unknown
from seqexport.runtimes.snapshot import Snapshot
from tests.conftest import Exported
from tests.serve.conftest import LIMITS, Whole, answers
from tests.serve.served import KEY, served, wait_until

PROMPT = "The state of a"
LONG = "def read(self, tokens):\n    return self.states[tokens]\n\n"


def request(prompt: str, count: int = 12, **options: object) -> Request:
    return Request(list(prompt.encode()), count, Sampling(0.8, seed=4), **options)  # type: ignore[arg-type]


def alone(runner: OrtRunner, prompt: str, count: int = 12) -> str:
    return Model(runner).generate(prompt, max_new_tokens=count, temperature=0.8, seed=4)[0]


def ended(whole: Whole) -> End:
    assert isinstance(whole.last, End)
    return whole.last


def test_a_kept_sequence_has_read_all_that_it_gave(runner: OrtRunner, engine: Engine) -> None:
    first = answers(engine, [request(PROMPT, keep=True)])[0]
    kept = ended(first).kept
    assert kept is not None and kept.position == len(PROMPT) + 12
    second, third = answers(engine, [request(" and", start=kept, keep=True), request("", start=kept)])
    assert second.text == alone(runner, PROMPT + first.text + " and")
    assert third.text == alone(runner, PROMPT + first.text)
    assert ended(second).kept is not None and ended(third).kept is None


def test_a_kept_sequence_ends_where_there_is_no_room(engine: Engine) -> None:
    kept = ended(answers(engine, [replace(request("ab" * 195, 400, keep=True))])[0]).kept
    assert kept is not None and kept.position == 400
    with pytest.raises(UserError, match="has 1 tokens after the session's 400: expected fewer than 400"):
        engine.submit([request("c", start=kept)], [lambda event: None])


def test_beginnings_that_were_read_are_not_read_again(runner: OrtRunner, engine: Engine) -> None:
    prompts = [LONG + "class", LONG + "if", LONG + "class", LONG[:40] + "x", "x" + LONG]
    reused = [0, 48, len(LONG) + 5, 32, 0]  # in chunks of 16, or the whole prompt
    for prompt, known in zip(prompts, reused, strict=True):
        found = answers(engine, [request(prompt)])[0]
        assert found.text == alone(runner, prompt)
        assert ended(found).usage.reused == known
    assert engine.prefix_bytes > 0


def test_a_talk_goes_on_after_its_answer(runner: OrtRunner, engine: Engine) -> None:
    first = answers(engine, [request(PROMPT, talk=True)])[0]
    follows = PROMPT + first.text + "\nmore"
    found = answers(engine, [request(follows)])[0]
    assert ended(found).usage.reused == len(PROMPT) + 11  # the last token was not read
    assert found.text == alone(runner, follows)


@pytest.fixture
def snapshots(runner: OrtRunner) -> Iterator[list[Snapshot]]:
    with runner.session() as session:
        found = []
        for token in range(65, 71):
            session.step(np.array([token]))
            found.append(session.read_row(0))
        yield found


def tokens(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.arange(65, 65 + count)


def test_the_longest_known_beginning_is_found_within_the_bytes(snapshots: list[Snapshot]) -> None:
    prefixes = Prefixes(max_bytes=4 * snapshots[0].nbytes)
    for count in (1, 2, 3, 4):
        prefixes.keep(tokens(count), snapshots[count - 1])
    assert prefixes.longest(tokens(9)) is snapshots[3]
    assert prefixes.longest(tokens(1)) is snapshots[0]
    assert prefixes.longest(np.array([65, 66, 99])) is snapshots[1]
    assert prefixes.longest(np.array([66, 67])) is None
    prefixes.keep(tokens(5), snapshots[4])  # 3 was the least recently used
    assert prefixes.longest(tokens(3)) is snapshots[1]
    assert prefixes.nbytes == 4 * snapshots[0].nbytes
    small = Prefixes(max_bytes=3 * snapshots[0].nbytes)
    small.keep(tokens(1), snapshots[0])
    assert small.longest(tokens(1)) is None and small.nbytes == 0


def test_sessions_without_a_folder_are_forgotten_for_others(runner: OrtRunner, snapshots: list[Snapshot]) -> None:
    sessions = Sessions(runner.bundle, max_bytes=2 * snapshots[0].nbytes)
    names = [sessions.create() for _ in range(3)]
    for name, snapshot in zip(names, snapshots, strict=False):
        assert sessions.take(name) is None
        with pytest.raises(InUse):
            sessions.take(name)
        sessions.give(name, snapshot)
    assert sessions.nbytes == 2 * snapshots[0].nbytes
    assert [sessions.tokens(name) for name in (names[1], names[2], sessions.create())] == [2, 3, 0]
    with pytest.raises(Unknown):
        sessions.take(names[0])
    assert sessions.take(names[2]) is snapshots[2]


def same(one: Snapshot | None, other: Snapshot) -> bool:
    assert one is not None
    states = all(np.array_equal(one.states[name], state) for name, state in other.states.items())
    return states and np.array_equal(one.recent, other.recent) and np.array_equal(one.logits, other.logits)


def test_sessions_are_spilled_to_files_and_found_after_a_restart(
    runner: OrtRunner, snapshots: list[Snapshot], tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    with Sessions(runner.bundle, 2 * snapshots[0].nbytes, folder) as sessions:
        names = [sessions.create() for _ in range(4)]
        for name, snapshot in zip(names, snapshots, strict=False):
            sessions.take(name)
            sessions.give(name, snapshot)
        assert sorted(file.stem for file in folder.iterdir()) == sorted(names[:2])
        assert [sessions.tokens(name) for name in names] == [1, 2, 3, 4]
        assert same(sessions.take(names[0]), snapshots[0])
        sessions.give(names[0], snapshots[5])
        sessions.delete(names[1])
    (folder / "notes.safetensors").write_bytes(b"")
    (folder / f"{names[3]}.safetensors").write_bytes(b"cut short")
    with Sessions(runner.bundle, 0, folder) as sessions:
        assert same(sessions.take(names[0]), snapshots[5])
        assert same(sessions.take(names[2]), snapshots[2])
        for name in (names[1], names[3], "notes", "../kept/notes", ""):
            for look in (sessions.tokens, sessions.take):
                with pytest.raises(Unknown):
                    look(name)


def test_a_session_that_is_deleted_while_it_is_used_stays_deleted(runner: OrtRunner, snapshots: list[Snapshot]) -> None:
    sessions = Sessions(runner.bundle, max_bytes=1 << 20)
    name = sessions.create()
    sessions.take(name)
    sessions.delete(name)
    sessions.give(name, snapshots[0])
    assert sessions.nbytes == 0
    with pytest.raises(Unknown):
        sessions.take(name)
    with pytest.raises(Unknown):
        sessions.delete(name)


def test_one_of_many_takes_a_session(runner: OrtRunner, snapshots: list[Snapshot]) -> None:
    sessions = Sessions(runner.bundle, max_bytes=1 << 20)
    name, taken = sessions.create(), list[bool]()

    def take() -> None:
        try:
            sessions.take(name)
            taken.append(True)
        except InUse:
            taken.append(False)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]


def test_a_session_goes_on_between_calls_and_after_a_restart(
    exported: Exported, runner: OrtRunner, tmp_path: Path
) -> None:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    ask = {"max_tokens": 12, "temperature": 0.8, "seed": 4}
    with served(bundle, LIMITS, tmp_path) as site, site.openai as client:
        name = site.post("/v1/sessions").json()["id"]
        ask = ask | {"model": site.model, "extra_body": {"session_id": name}}
        first = client.completions.create(prompt=PROMPT, **ask).choices[0].text  # type: ignore[call-overload]
        assert first == alone(runner, PROMPT)
        stream = client.completions.create(prompt=" and", stream=True, **ask)  # type: ignore[call-overload]
        second = "".join(chunk.choices[0].text for chunk in stream)
        assert second == alone(runner, PROMPT + first + " and")
        found = httpx.get(f"{site.url}/v1/sessions/{name}", headers={"Authorization": f"Bearer {KEY}"}).json()
        assert found == {"id": name, "object": "session", "tokens": len(PROMPT + " and") + 24}
    with served(bundle, LIMITS, tmp_path) as site, site.openai as client:
        third = client.completions.create(prompt="", **ask).choices[0].text  # type: ignore[call-overload]
        assert third == alone(runner, PROMPT + first + " and" + second)
        assert httpx.delete(f"{site.url}/v1/sessions/{name}", headers={"Authorization": f"Bearer {KEY}"}).json()[
            "deleted"
        ]
        with pytest.raises(openai.NotFoundError, match="no session"):
            client.completions.create(prompt="", **ask)  # type: ignore[call-overload]
        assert not list(tmp_path.iterdir())


def test_sessions_over_http_that_cannot_go_on(exported: Exported, runner: OrtRunner) -> None:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    with served(bundle, LIMITS) as site, site.openai as client:
        name = site.post("/v1/sessions").json()["id"]
        body = {"model": site.model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0.8, "seed": 4}
        for other in (name[::-1], "../" + name, "a/b", "\x00"):
            assert site.post("/v1/completions", json=body | {"session_id": other}).status_code == 404
        for wrong in ({"prompt": ""}, {"prompt": [PROMPT]}, {"n": 2}):
            assert site.post("/v1/completions", json=body | {"session_id": name} | wrong).status_code == 400
        stream = client.completions.create(  # type: ignore[call-overload]
            **body | {"max_tokens": 380}, extra_body={"session_id": name}, stream=True
        )
        next(stream)
        assert site.post("/v1/completions", json=body | {"session_id": name}).status_code == 409
        stream.close()  # the client leaves: the session is as it was before
        wait_until(lambda: site.service.idle)
        wait_until(lambda: site.post("/v1/completions", json=body | {"session_id": name}).status_code == 200)


def test_numbers_of_reused_beginnings(exported: Exported) -> None:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    with served(bundle, LIMITS) as site:
        body = {"model": site.model, "prompt": LONG, "max_tokens": 1}
        told = [site.post("/v1/completions", json=body).json()["usage"]["prompt_tokens_details"] for _ in range(2)]
        assert [each["cached_tokens"] for each in told] == [0, len(LONG)]
        assert site.metric("seqexport_prefix_hits_total") == 1
        assert site.metric("seqexport_prefix_tokens_total") == len(LONG)
        assert site.metric("seqexport_prefix_bytes") > 0
