"""OpenAI's own client, and clients that are not so well behaved, against a server on a real socket."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqexport.runtimes.model import Model
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.serve import guard
from seqexport.runtimes.serve import server as serving
from tests.conftest import Exported
from tests.serve.conftest import LIMITS
from tests.serve.served import KEY, TEMPLATE, Served, served, wait_until, with_template

PROMPT = "The state of a"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a scan?"}]
SAMPLED = {"temperature": 0.8, "top_p": 0.95, "seed": 3}


@pytest.fixture(scope="module")
def site(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    with served(with_template(bundle, tmp_path_factory.mktemp("chat") / "talker"), LIMITS) as found:
        yield found


@pytest.fixture(scope="module")
def client(site: Served) -> Iterator[openai.OpenAI]:
    with site.openai as found:
        yield found


@pytest.fixture(scope="module")
def model(runner: OrtRunner) -> Model:
    return Model(runner)


def test_models_are_listed(site: Served, client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["talker"] == [site.model]
    assert client.models.retrieve("talker").owned_by == "seqexport"
    with pytest.raises(openai.NotFoundError, match="no model 'other' here: this server has 'talker'"):
        client.models.retrieve("other")


def test_a_completion_is_what_generate_gives(client: openai.OpenAI, model: Model) -> None:
    found = client.completions.create(model="talker", prompt=PROMPT, max_tokens=20, **SAMPLED)  # type: ignore[call-overload]
    assert found.choices[0].text == model.generate(PROMPT, max_new_tokens=20, **SAMPLED)[0]  # type: ignore[arg-type]
    assert found.choices[0].finish_reason == "length"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (14, 20, 34)


def test_a_stream_has_the_same_text_in_pieces(client: openai.OpenAI, model: Model) -> None:
    stream = client.completions.create(
        model="talker", prompt=PROMPT, max_tokens=20, stream=True, stream_options={"include_usage": True}, **SAMPLED
    )  # type: ignore[call-overload]
    chunks = list(stream)
    pieces = [choice.text for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == model.generate(PROMPT, max_new_tokens=20, **SAMPLED)[0]  # type: ignore[arg-type]
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-2:] == [None, "length"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 20
    assert {chunk.usage for chunk in chunks[:-1]} == {None}


def test_several_prompts_and_choices_in_order(client: openai.OpenAI, model: Model) -> None:
    prompts = [PROMPT, "import"]
    given = [prompts, [list(prompt.encode()) for prompt in prompts]]
    expected = [
        model.generate(prompt, max_new_tokens=7, temperature=0.8, seed=seed)[0]
        for prompt in prompts
        for seed in (9, 10)
    ]
    for prompt in given:
        found = client.completions.create(model="talker", prompt=prompt, n=2, max_tokens=7, temperature=0.8, seed=9)
        assert [choice.text for choice in found.choices] == expected
        assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (14 + 6, 28)


def test_without_a_seed_answers_differ(client: openai.OpenAI) -> None:
    found = client.completions.create(model="talker", prompt=PROMPT, n=4, max_tokens=24, temperature=1.5)
    assert len({choice.text for choice in found.choices}) > 1


def test_a_stop_text_ends_a_stream(client: openai.OpenAI, model: Model) -> None:
    whole = model.generate(PROMPT, max_new_tokens=30)[0]
    stream = client.completions.create(
        model="talker", prompt=PROMPT, max_tokens=30, temperature=0, stop=[whole[9:13], "@@"], stream=True
    )
    choices = [chunk.choices[0] for chunk in stream]
    assert "".join(choice.text for choice in choices) == whole[: whole.index(whole[9:13])]
    assert choices[-1].finish_reason == "stop"


def test_log_probabilities_of_a_completion(client: openai.OpenAI) -> None:
    found = client.completions.create(model="talker", prompt=PROMPT, max_tokens=4, temperature=0, logprobs=2)
    told = found.choices[0].logprobs
    assert told is not None and "".join(told.tokens) == found.choices[0].text
    assert told.text_offset == [0, 1, 2, 3]
    for token, value, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert len(top) == 2 and max(top, key=lambda each: top[each]) == token and top[token] == value
        assert sum(map(math.exp, top.values())) <= 1


def test_a_chat_follows_the_bundles_template(site: Served, client: openai.OpenAI, runner: OrtRunner) -> None:
    prompt = "<system> Be brief.\n<user> What is a scan?\n<assistant> "
    expected = Model(runner).generate(prompt, max_new_tokens=16, **SAMPLED)[0]  # type: ignore[arg-type]
    asked = {"model": "talker", "messages": MESSAGES, "max_completion_tokens": 16, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked, **SAMPLED)  # type: ignore[call-overload]
    message = whole.choices[0].message
    assert (message.role, message.content) == ("assistant", expected)
    assert [each.token for each in whole.choices[0].logprobs.content] == list(expected)
    assert {len(each.top_logprobs) for each in whole.choices[0].logprobs.content} == {2}
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, **SAMPLED, stream=True)]  # type: ignore[call-overload]
    assert chunks[0].delta.role == "assistant"
    assert "".join(chunk.delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].finish_reason == "length"
    assert len(TEMPLATE) and whole.usage.prompt_tokens == len(prompt)


def test_text_parts_are_one_text(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "a scan?"}]
    answers = {
        client.chat.completions.create(
            model="talker", messages=[MESSAGES[0], {"role": "user", "content": content}], max_tokens=9, temperature=0
        )  # type: ignore[call-overload]
        .choices[0]
        .message.content
        for content in ("What is a scan?", parts)
    }
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("completions", "{", "JSON decode error"),
        ("completions", "[]", "valid dictionary"),
        ("completions", '{"model": "talker"}', "prompt: Field required"),
        ("completions", '{"model": "talker", "prompt": "a", "temprature": 1}', "temprature: Extra inputs"),
        ("completions", '{"model": "talker", "prompt": "a", "temperature": NaN}', "temperature: .* finite"),
        ("completions", '{"model": "talker", "prompt": "a", "presence_penalty": 1}', "presence_penalty"),
        ("completions", '{"model": "talker", "prompt": "a", "stop": ""}', "stop"),
        ("completions", '{"model": "talker", "prompt": ""}', "prompt is empty"),
        ("completions", '{"model": "talker", "prompt": []}', "prompt: Input should be a valid string; or List should"),
        ("completions", '{"model": "talker", "prompt": [[65], []]}', "prompt"),
        ("completions", '{"model": "talker", "prompt": [65, 256]}', "token 256: outside the vocabulary"),
        ("completions", '{"model": "talker", "prompt": ["a", "b"], "n": 65}', "expected at most 128"),
        ("completions", json.dumps({"model": "talker", "prompt": "a" * 400}), "fewer than 400"),
        ("completions", "[" * 200_000, "the body"),
        ("chat/completions", '{"model": "talker", "messages": []}', "messages"),
        ("chat/completions", '{"model": "talker", "messages": [{"role": "user", "content": 1}]}', "messages"),
        ("chat/completions", '{"model": "talker", "messages": [{"role": "user"}], "tools": []}', "messages|tools"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(site: Served, path: str, body: str, message: str) -> None:
    found = site.post(f"/v1/{path}", content=body, headers={"content-type": "application/json"})
    assert found.status_code == 400, found.text
    error = found.json()["error"]
    assert error["type"] == "invalid_request_error"
    with pytest.raises(ValueError, match=message):
        raise ValueError(error["message"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("model", "prompt", "messages", "temperature", "top_p", "top_k", "seed", "stop", "stream", "stream_options")
OTHERS = ("logprobs", "top_logprobs", "session_id", "user", "echo", "logit_bias", "presence_penalty", "other")


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
@settings(max_examples=30, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wrong=st.dictionaries(st.sampled_from([*FIELDS, *OTHERS]), JSON, max_size=3))
def test_whatever_a_body_holds_the_server_answers(site: Served, path: str, wrong: dict[str, object]) -> None:
    asks = {"prompt": "a"} if path == "completions" else {"messages": [{"role": "user", "content": "a"}]}
    body = json.dumps({"model": "talker", "max_tokens": 1, **asks, **wrong})
    found = site.post(f"/v1/{path}", content=body, headers={"content-type": "application/json"})
    assert found.status_code in (200, 400, 404)


def test_half_of_a_surrogate_pair_breaks_nothing(site: Served) -> None:
    for field in ("prompt", "model", "stop", "\\ud800"):
        body = {"model": "talker", "prompt": "a", "max_tokens": 1}
        text = json.dumps(body)[:-1] + f', "{field}": "\\ud800"}}'
        assert (
            site.post("/v1/completions", content=text, headers={"content-type": "application/json"}).status_code < 500
        )


def test_only_who_has_the_key_may_ask(site: Served) -> None:
    body = {"model": "talker", "prompt": "a", "max_tokens": 1}
    for header in ("", "Bearer", "Bearer other", f"Basic {KEY}", KEY, f"Bearer {KEY}x"):
        found = site.post("/v1/completions", json=body, headers={"Authorization": header})
        assert (found.status_code, found.json()["error"]["type"]) == (401, "authentication_error")
    assert site.post("/v1/completions", json=body).status_code == 200
    assert site.get("/v1/models").status_code == 401
    assert [site.get(path).status_code for path in ("/health", "/ready", "/metrics", "/")] == [200] * 4
    assert site.get("/v1/../seqexport.json").status_code in (401, 404)


def test_a_body_that_is_too_large_is_refused(site: Served) -> None:
    assert site.post("/v1/completions", content=b" " * (5 << 20)).status_code == 413
    chunks = (b" " * (1 << 20) for _ in range(6))
    assert site.post("/v1/completions", content=chunks).status_code == 413


def test_a_full_queue_says_when_to_come_back(exported: Exported) -> None:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    with served(bundle, replace(LIMITS, max_batch=1, max_queue=0)) as site, site.openai as client:
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model=site.model, prompt=PROMPT, n=2)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert client.completions.create(model=site.model, prompt=PROMPT, max_tokens=2).choices[0].text


def test_a_client_that_leaves_makes_room(site: Served) -> None:
    body = {"model": "talker", "prompt": PROMPT, "max_tokens": 380, "temperature": 0}
    before = site.metric("seqexport_answer_tokens_total")
    for stream in (True, False):
        with socket.create_connection(("127.0.0.1", int(site.url.rpartition(":")[2]))) as client:
            client.sendall(written(json.dumps(body | {"stream": stream})))
            wait_until(lambda: site.service.running == 1)
        wait_until(lambda: site.service.idle)
    assert site.metric("seqexport_answer_tokens_total") - before < 2 * 380


def test_a_connection_without_a_request_is_cut(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    with served(bundle, LIMITS) as site:
        address = ("127.0.0.1", int(site.url.rpartition(":")[2]))
        for begun in (b"", b"POST /v1/completions HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"):
            with socket.create_connection(address, timeout=60) as half:
                half.sendall(begun)
                received = b""
                try:
                    while part := half.recv(4096):
                        received += part
                except ConnectionResetError:
                    pass
                assert (b" 408 " in received) == begun.endswith(b"{")
        assert site.get("/ready").status_code == 200
        wait_until(lambda: not site.server.server_state.connections)


def test_a_reader_that_stops_reading_is_cut(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "IDLE_SECONDS", 0.2)
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    with served(bundle, LIMITS) as site, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(site.url.rpartition(":")[2])))
        asked = {"model": site.model, "prompt": PROMPT, "max_tokens": 300, "n": 16, "logprobs": 20, "stream": True}
        client.sendall(written(json.dumps(asked)))
        wait_until(lambda: site.service.running)
        wait_until(lambda: site.service.idle and not site.server.server_state.connections)


def written(content: str) -> bytes:
    """A request for completions, as a client writes it."""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode()


def test_while_it_loads_clients_are_told_to_come_back(exported: Exported) -> None:
    bundle, holds = exported("preset:mamba", target="ort", dtype="float32", logits="last"), threading.Event()
    with served(bundle, LIMITS, holds=holds) as site:
        early = site.post("/v1/completions", json={"model": site.model, "prompt": "a"})
        ready, health = site.get("/ready"), site.get("/health")
        holds.set()
        assert (early.status_code, ready.status_code, health.status_code) == (503, 503, 200)
        assert int(early.headers["retry-after"]) >= 1 and health.json() == {"status": "loading"}
        wait_until(lambda: site.get("/ready").status_code == 200)


def test_a_signal_drains_the_server(exported: Exported) -> None:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    with served(bundle, LIMITS) as site, site.openai as client:
        stream = client.completions.create(model=site.model, prompt=PROMPT, max_tokens=300, temperature=0, stream=True)
        text = next(stream).choices[0].text
        site.server.handle_exit(15, None)
        late = site.post("/v1/completions", json={"model": site.model, "prompt": "a"})
        ready = site.get("/ready")
        text += "".join(chunk.choices[0].text for chunk in stream)
        assert (late.status_code, ready.status_code, ready.json()) == (503, 503, {"status": "draining"})
        assert int(late.headers["retry-after"]) >= 1
        assert len(text) == 300
        wait_until(lambda: site.server.should_exit)


def test_numbers_of_what_was_done(site: Served, client: openai.OpenAI) -> None:
    counted = ("prompt_tokens_total", "answer_tokens_total", "time_to_first_token_seconds_count", "batch_size_count")
    before = [site.metric(f"seqexport_{name}") for name in counted]
    client.completions.create(model="talker", prompt="14 new letters", max_tokens=5, temperature=0)
    after = [site.metric(f"seqexport_{name}") for name in counted]
    assert [b - a for a, b in zip(before, after, strict=True)] == [14, 5, 1, 4]
    text = site.get("/metrics").text
    assert 'seqexport_requests_total{path="/v1/completions",status="200"}' in text
    assert site.metric("seqexport_queue_length") == site.metric("seqexport_running") == 0


def test_the_page_needs_nothing_from_elsewhere(site: Served) -> None:
    page = site.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")
    facts = httpx.get(site.url + "/facts").json()
    assert facts["model"] == "talker" and facts["chat"] is True and facts["state_bytes"] > 0


def test_many_clients_at_once_each_get_their_own(client: openai.OpenAI, model: Model) -> None:
    found: dict[int, str] = {}

    def ask(seed: int) -> None:
        answer = client.completions.create(
            model="talker", prompt=PROMPT[:seed], max_tokens=12, temperature=0.9, seed=seed, stream=seed % 2 == 0
        )
        chunks = answer if seed % 2 == 0 else [answer]
        found[seed] = "".join(choice.text for chunk in chunks for choice in chunk.choices)  # type: ignore[union-attr]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    expected = {
        seed: model.generate(PROMPT[:seed], max_new_tokens=12, temperature=0.9, seed=seed)[0] for seed in range(1, 13)
    }
    assert found == expected
