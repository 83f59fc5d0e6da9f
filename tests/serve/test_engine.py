"""Requests join and leave one running batch, and each gets the answer that it would get alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Floats, Lengths, Runner, Tokens
from seqexport.runtimes.model import Model
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.ort.session import OrtSession
from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.serve.batch import PATIENCE, Batch
from seqexport.runtimes.serve.engine import Engine
from seqexport.runtimes.serve.jobs import Busy
from seqexport.runtimes.serve.pace import MOST, Pace
from seqexport.runtimes.serve.requests import End, Failed, Request, Usage
from seqexport.runtimes.tokenizer import BundleTokenizer
from tests.conftest import Exported
from tests.serve.conftest import LIMITS, Asked, answers

TEXT = "The state of a sequence is all that a model remembers of it; import os\nclass Session(Closing):\n    def read("
SAMPLED = Sampling(temperature=0.9, top_k=40, top_p=0.95, seed=5)


def request(prompt: str = "The state of a", count: int = 24, sampling: Sampling = SAMPLED) -> Request:
    return Request(list(prompt.encode()), count, sampling)


def mixed(count: int) -> list[Request]:
    """Short and long prompts and answers, likeliest tokens and drawn ones."""
    drawn = random.Random(3)
    found = []
    for seed in range(count):
        start, length = drawn.randrange(40), drawn.choice([1, 3, 12, 50, 160])
        sampling = Sampling() if seed % 3 == 0 else Sampling(0.8, 40, 0.95, seed)
        found.append(request((TEXT * 3)[start : start + length], drawn.choice([1, 2, 9, 30]), sampling))
    return found


def alone(runner: Runner, asked: Request) -> str:
    """As the front door answers it."""
    prompt, way = bytes(asked.tokens).decode(), asked.sampling
    options = {"temperature": way.temperature, "top_k": way.top_k, "top_p": way.top_p, "seed": way.seed}
    return Model(runner).generate(prompt, max_new_tokens=asked.max_new_tokens or 0, **options)[0]  # type: ignore[arg-type]


def test_mixed_requests_get_the_answers_of_each_alone(runner: OrtRunner, engine: Engine) -> None:
    requests = mixed(40)
    found = answers(engine, requests)
    assert [each.text for each in found] == [alone(runner, each) for each in requests]
    for each, asked in zip(found, requests, strict=True):
        assert isinstance(each.last, End)
        assert each.last.usage.prompt == len(asked.tokens)
        assert each.last.usage.answer == asked.max_new_tokens or each.last.reason == "stop"
    assert engine.idle


@pytest.mark.parametrize("name", ["preset:mamba", "preset:hybrid"])
def test_with_the_op_library_too(exported: Exported, name: str, op_library: Path) -> None:
    with OrtRunner(exported(name, target="ort", dtype="float32", logits="last"), threads=1) as runner:
        assert runner.ops.path == op_library
        requests = mixed(40)
        with Engine(runner, BundleTokenizer(runner.bundle), LIMITS) as engine:
            found = [each.text for each in answers(engine, requests)]
        assert found == [alone(runner, each) for each in requests]


@pytest.fixture
def op_library(native_library: object, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = native_library("onnxruntime")  # type: ignore[operator]
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(file.parent))
    return file  # type: ignore[no-any-return]


def test_stop_texts_end_an_answer_across_tokens(runner: OrtRunner, engine: Engine) -> None:
    asked = request(count=40)
    whole = alone(runner, asked)
    stop = whole[7:11]  # of four tokens: one byte each
    cut, kept, never = answers(
        engine, [replace(asked, stop=("never so", stop)), replace(asked, stop=(whole[-3:] + "?",)), asked]
    )
    assert cut.text == whole[: whole.index(stop)]
    assert isinstance(cut.last, End) and cut.last.reason == "stop"
    assert cut.last.usage.answer == whole.index(stop) + len(stop)
    assert kept.text == never.text == whole
    assert isinstance(kept.last, End) and kept.last.reason == "length" and kept.last.usage.answer == 40


def test_log_probabilities_are_the_models(runner: OrtRunner, engine: Engine) -> None:
    asked = replace(request(count=6), logprobs=3)
    found = answers(engine, [asked])[0]
    with runner.session() as session:
        session.prefill(np.array([asked.tokens]))
        for chosen in found.chosen:
            logits = session.logits[0].astype(np.float64)
            expected = logits - np.log(np.exp(logits).sum())
            top = np.argsort(-logits)[:3]
            assert [token for token, _ in chosen.top] == top.tolist()
            np.testing.assert_allclose([value for _, value in chosen.top], expected[top], atol=1e-4)
            np.testing.assert_allclose(chosen.logprob, expected[chosen.token], atol=1e-4)
            session.step(np.array([chosen.token]))
    assert bytes(chosen.token for chosen in found.chosen).decode() == found.text


def test_an_end_of_text_token_ends_an_answer(
    runner: OrtRunner, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = alone(runner, request())
    manifest = runner.manifest
    ends = msgspec.structs.replace(
        manifest, language_model=msgspec.structs.replace(manifest.text, eos_token_ids=(ord(whole[5]),))
    )
    monkeypatch.setattr(runner, "manifest", ends)
    found = answers(engine, [request()])[0]
    assert found.text == whole[: whole.index(whole[5])]
    assert isinstance(found.last, End) and found.last.reason == "stop"


class Held:
    """A runner's steps, one at a time as the test lets them, and what was fed in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fed: list[Tokens] = []
        self.fails = ""
        self._permits = threading.Semaphore(0)
        run = OrtSession._run

        def held(session: OrtSession, tokens: Tokens, seq_lens: Lengths) -> Floats:
            assert self._permits.acquire(timeout=60)
            self.fed.append(tokens)
            if self.fails:
                raise UserError(self.fails)
            return run(session, tokens, seq_lens)

        monkeypatch.setattr(OrtSession, "_run", held)

    def allow(self, steps: int = 10_000) -> None:
        self._permits.release(steps)


@pytest.fixture
def held(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Whose steps take as long as the test lets them wait, which tells nothing of a pace."""
    monkeypatch.setattr(Pace, "read", lambda pace, tokens, seconds: None)
    found = Held(monkeypatch)
    yield found
    found.allow()


def test_a_long_prompt_is_read_between_the_steps_of_others(engine: Engine, held: Held) -> None:
    short = Asked(engine, request("Ab", 12))
    held.allow(1)
    short.next()
    long = Asked(engine, request(TEXT[:100], 2))
    held.allow()
    short.whole(), long.whole()
    widths = [tokens.shape[1] for tokens in held.fed]
    first = widths.index(LIMITS.chunk)
    assert widths[first : first + 12 : 2] == [LIMITS.chunk] * 6  # of 100 tokens the last are 4
    assert widths[first + 1 : first + 12 : 2] == [1] * 6


def test_requests_are_answered_in_the_order_of_their_arrival(engine: Engine, held: Held) -> None:
    order: list[int] = []
    jobs = [request("Ab" * (20 - index), 3) for index in range(12)]  # more than run together; the shortest come last
    done = threading.Event()

    def finish(index: int) -> object:
        def told(event: object) -> None:
            if isinstance(event, End):
                order.append(index)
                if len(order) == len(jobs):
                    done.set()

        return told

    engine.submit(jobs, [finish(index) for index in range(len(jobs))])  # type: ignore[misc]
    held.allow()
    assert done.wait(60)
    assert order == sorted(order)


def test_a_cancelled_request_makes_room_at_once(runner: OrtRunner, engine: Engine, held: Held) -> None:
    gone = [Asked(engine, request(count=300)) for _ in range(8)]
    waits = Asked(engine, request(count=5))
    held.allow(12)
    for each in gone:
        each.job.cancel()
    held.allow()
    assert waits.whole().text == alone(runner, request(count=5))
    assert len(held.fed) < 100
    assert engine.idle


def test_a_full_queue_refuses_and_says_when_to_come_back(runner: OrtRunner, tokenizer: BundleTokenizer) -> None:
    with Engine(runner, tokenizer, replace(LIMITS, max_batch=1, max_queue=2)) as engine:
        three = [request(count=3)] * 3
        with pytest.raises(Busy, match="no more than 2 may") as refused:
            engine.submit([*three, *three], [lambda event: None] * 6)
        assert refused.value.seconds >= 1 and not refused.value.stopping
        assert engine.idle
        assert len(answers(engine, three)) == 3


def test_a_draining_engine_finishes_what_it_has(runner: OrtRunner, engine: Engine, held: Held) -> None:
    asked = Asked(engine, request())
    engine.drain()
    with pytest.raises(Busy) as refused:
        Asked(engine, request())
    assert refused.value.stopping
    held.allow()
    assert asked.whole().text == alone(runner, request())


def test_closing_fails_what_is_under_way(engine: Engine, held: Held) -> None:
    asked = [Asked(engine, request(count=300)) for _ in range(10)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    held.allow()
    found = [each.whole().last for each in asked]
    closing.join(60)
    assert found == [Failed("the server has stopped", busy=True)] * 10


def test_a_failure_of_the_runner_is_told_and_others_are_served_after_it(engine: Engine, held: Held) -> None:
    held.fails = "out of memory"
    failed = Asked(engine, request())
    held.allow(1)
    assert failed.whole().last == Failed("out of memory")
    held.fails = ""
    held.allow()
    assert isinstance(answers(engine, [request()])[0].last, End)


def test_a_sequence_that_is_not_finite_fails_alone(
    runner: OrtRunner, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OrtSession._run

    def broken(session: OrtSession, tokens: Tokens, seq_lens: Lengths) -> Floats:
        logits = run(session, tokens, seq_lens)
        rows = (tokens == ord("~")).any(axis=1)
        return np.where(rows[:, None, None], np.nan, logits)

    monkeypatch.setattr(OrtSession, "_run", broken)
    bad, good = answers(engine, [request("a~"), request(sampling=Sampling())])
    assert isinstance(bad.last, Failed) and "not finite" in bad.last.message
    assert good.text == alone(runner, request(sampling=Sampling()))


def test_a_request_ends_at_its_time(runner: OrtRunner, tokenizer: BundleTokenizer) -> None:
    with Engine(runner, tokenizer, replace(LIMITS, max_seconds=0.0)) as engine:
        assert answers(engine, [request()])[0].last == Failed("it waited for 0 seconds; ask later", busy=True)


def test_an_answer_ends_where_there_is_no_more_room(runner: OrtRunner, engine: Engine) -> None:
    found = answers(engine, [replace(request("ab" * 190, sampling=Sampling()), max_new_tokens=None)])[0]
    assert found.last == End("length", Usage(prompt=380, reused=0, answer=20))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([], "prompt is empty"), ([70, 256], "token 256: outside"), ([-1], "token -1"), ([65] * 400, "fewer than 400")],
)
def test_prompts_that_cannot_be_read_are_refused(engine: Engine, tokens: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine.submit([Request(tokens)], [lambda event: None])
    assert engine.idle


def test_a_batch_has_the_places_that_it_needs(runner: OrtRunner) -> None:
    with runner.session(6) as session:
        session.prefill(np.arange(65, 71)[:, None])
        rows = [session.read_row(key) for key in range(6)]
        batch, sizes = Batch(runner, None, 6), []
        for key in range(6):
            batch.join({key: key}, session)
            sizes.append(batch.size)
        assert sizes == [1, 2, 4, 4, 6, 6] and batch.places == 0
        for key in (0, 1, 2, 4):
            batch.leave(key)
            sizes.append(batch.size)
        assert sizes[6:] == [6, 6, 6, 6]
        batch.leave(3)
        for _ in range(PATIENCE - 1):
            batch.step({5: 3})
        assert batch.size == 6
        rows[5] = batch.row(5)
        batch.step({})
        assert batch.size == 3
        np.testing.assert_array_equal(batch.row(5).recent, rows[5].recent)
        np.testing.assert_array_equal(batch.row(5).logits, rows[5].logits)
        for name, state in batch.row(5).states.items():
            np.testing.assert_array_equal(state, rows[5].states[name])
        batch.leave(5)
        assert batch.size == 3
        batch.clear()
        for key in range(2):
            batch.join({key: key}, session, soon=3 - key)
            assert batch.size == 4
        batch.clear()
        for _ in range(2):
            batch.join({7: 0}, session)
            batch.clear()
            assert (batch.size, batch.places) == (0, 6)


def test_short_prompts_are_read_together(runner: OrtRunner, engine: Engine, held: Held) -> None:
    first = Asked(engine, request("Ab", 40))
    held.allow(1)
    first.next()
    texts = ["The", "of a", "is", "Ab" * 20, "what", "a"]
    asked = [Asked(engine, request(text, 6)) for text in texts]
    held.allow()
    found = [each.whole().text for each in asked]
    together = [tokens.shape for tokens in held.fed if min(tokens.shape) > 1]
    assert found == [alone(runner, request(text, 6)) for text in texts]
    assert (4, 4) in together  # three, and a row that nobody needs
    assert (2, 4) in together


@pytest.mark.parametrize(
    ("step", "alone", "each", "tokens"),
    [
        (0.1, 0.0, 1e-3, 100),  # as long as a step
        (0.1, 0.02, 1e-3, 80),
        (0.02, 0.02, 1e-4, 200),  # a read costs a step by itself: as long again for its tokens
        (0.1, 0.0, 1.0, 64),  # at least
        (0.1, 0.0, 1e-7, MOST),  # at most
    ],
)
def test_a_pace_follows_the_time_of_a_step(step: float, alone: float, each: float, tokens: int) -> None:
    pace = Pace(64)
    pace.read(64, alone + 64 * each)
    pace.stepped(step)
    for _ in range(30):
        pace.read(pace.tokens, alone + pace.tokens * each)
    assert pace.tokens == pytest.approx(tokens, rel=0.02)


def test_a_pace_follows_what_reads_take_now() -> None:
    pace = Pace(64)
    pace.stepped(0.1)
    for each in (1e-3, 1e-4):
        for tokens in [64, 500] * 30:
            pace.read(tokens, tokens * each)
        assert pace.tokens == pytest.approx(0.1 / each, rel=0.02)


def test_reads_that_shrink_with_their_size_break_no_pace() -> None:
    pace = Pace(64)
    pace.stepped(0.1)
    for tokens, seconds in ((1000, 0.01), (10, 0.2), (1, 0.0), (2000, 0.001)) * 3:
        pace.read(tokens, seconds)
        assert 64 <= pace.tokens <= MOST
