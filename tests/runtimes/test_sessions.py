"""Sessions that are saved, restored, forked and rewound go on token for token; test_session_files.py has the files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from seqexport.exporter.presets import resolve_source
from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Floats, Lengths, Runner, Session, Tokens
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.model import Model
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.ort.session import OrtSession
from seqexport.runtimes.pytorch.runner import TorchRunner
from seqexport.runtimes.sampling import Sampling
from tests.conftest import Exported
from tests.exporter.families import VOCAB

PRESETS = ("mamba", "mamba2", "transformer", "hybrid")
SAMPLED = Sampling(temperature=1.0, top_k=40, top_p=0.95, seed=11)
CAPACITY = 96
TOKENS, LENGTHS = np.array([[82, 101, 116, 117, 114, 110], [84, 104, 101, 0, 0, 0]]), np.array([6, 3], np.int32)
"""``Return`` and ``The``, in bytes."""


def opened(exported: Exported, name: str, **options: Any) -> OrtRunner:
    return OrtRunner(exported(name, **{"target": "ort", "dtype": "float32", "logits": "last"} | options), threads=1)


@pytest.fixture(scope="module", params=PRESETS)
def runner(request: pytest.FixtureRequest, exported: Exported) -> Iterator[OrtRunner]:
    with opened(exported, f"preset:{request.param}") as found:
        yield found


@pytest.fixture(scope="module")
def mamba(exported: Exported) -> Iterator[OrtRunner]:
    with opened(exported, "preset:mamba") as found:
        yield found


@pytest.fixture(params=[Sampling(), SAMPLED], ids=["greedy", "sampled"])
def sampling(request: pytest.FixtureRequest) -> Sampling:
    found: Sampling = request.param
    return found


def started(runner: Runner) -> Session:
    session = runner.session(2, CAPACITY if runner.manifest.capacity else None)
    session.prefill(TOKENS, LENGTHS)
    return session


def made(session: Session, count: int, sampling: Sampling | None = None) -> list[list[int]]:
    return [tokens.tolist() for tokens in session.generate(count, sampling)]


def test_a_restored_session_goes_on_token_for_token(runner: OrtRunner, sampling: Sampling, tmp_path: Path) -> None:
    with started(runner) as session:
        whole = made(session, 24, sampling)
    with started(runner) as session:
        first = made(session, 9, sampling)
        session.save(tmp_path / "a")
    with runner.restore(tmp_path / "a", CAPACITY if runner.manifest.capacity else None) as session:
        assert session.lengths.tolist() == [15, 12]
        assert first + made(session, 15) == whole
        np.testing.assert_array_equal(session.recent[1, -24:], np.array(whole)[:, 1])


def test_a_session_saved_before_it_generated(runner: OrtRunner, sampling: Sampling, tmp_path: Path) -> None:
    with started(runner) as session:
        session.save(tmp_path / "a")
        whole = made(session, 8, sampling)
    with runner.restore(tmp_path / "a") as session:
        assert made(session, 8, sampling) == whole


def test_a_fork_goes_on_by_itself(runner: OrtRunner, sampling: Sampling) -> None:
    with started(runner) as session:
        made(session, 5, sampling)
        with session.fork() as other:
            expected = made(session, 6)
            other.prefill(TOKENS)
            assert made(other, 6) != expected
        with session.fork() as other:
            assert made(other, 6) == made(session, 6)


@pytest.mark.parametrize("own", [True, False], ids=["row by row", "by way of all rows"])
def test_a_row_goes_on_among_others(runner: OrtRunner, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not own:
        monkeypatch.setattr(OrtSession, "_read_row_state", Session._read_row_state)
        monkeypatch.setattr(OrtSession, "_write_row", Session._write_row)
    with started(runner) as session:
        one, whole = session.read_row(0), made(session, 12)
    with started(runner) as others:
        made(others, 3)
        kept = others.read_row(0)
        others.write_row(1, one)
        assert others.lengths.tolist() == [9, 6]
        assert [tokens[1] for tokens in made(others, 12)] == [tokens[0] for tokens in whole]
        others.write_row(1, kept)
        others.empty_row(0)
        assert [tokens[1] for tokens in others_alone(others, 9)] == [tokens[0] for tokens in whole[3:]]


def others_alone(session: Session, count: int) -> list[list[int]]:
    """Steps in which the first row is fed nothing."""
    found = []
    for _ in range(count):
        found.append([-1, int(session.logits[1].argmax())])
        session.prefill(np.array([[0], [found[-1][1]]]), np.array([0, 1], np.int32))
    return found


def test_a_row_beyond_the_capacity_is_refused(exported: Exported) -> None:
    with opened(exported, "preset:transformer") as runner, runner.session(1, 8) as long, runner.session(2, 6) as short:
        long.prefill(np.full((1, 8), 65))
        short.prefill(TOKENS, LENGTHS)
        before = short.read_states()
        with pytest.raises(UserError, match="sequence of 8 tokens: this session's capacity is 6"):
            short.write_row(1, long.read_row(0))
        assert short.lengths.tolist() == [6, 3]
        for name, state in short.read_states().items():
            np.testing.assert_array_equal(state, before[name])


def test_rewinding_and_feeding_again_is_as_before(runner: OrtRunner, sampling: Sampling) -> None:
    with started(runner) as session:
        session.keep(4, 1 << 24)
        first = made(session, 20, sampling)
        end = made(session, 6)
        back = session.rewind(17)
        assert 6 < back <= 17
        assert session.lengths.tolist() == [back, back - 3]
        assert made(session, 26 - (back - 6)) == (first + end)[back - 6 :]
        assert session.rewind(session.position) == 32


def test_prompts_are_read_in_pieces_to_rewind_into(runner: OrtRunner) -> None:
    tokens = np.arange(40)[None] % 90 + 32
    with runner.session(1, CAPACITY if runner.manifest.capacity else None) as session:
        session.keep(8, 1 << 24)
        session.prefill(tokens)
        expected = made(session, 5)
        assert session.rewind(39) == 32
        session.prefill(tokens[:, 32:])
        assert made(session, 5) == expected
        assert session.rewind(7) == 0
        session.prefill(tokens)
        assert made(session, 5) == expected


def test_a_reset_session_is_as_a_new_one(runner: OrtRunner, sampling: Sampling) -> None:
    with started(runner) as session:
        whole = made(session, 8, sampling)
        session.reset()
        assert session.position == 0
        with pytest.raises(UserError, match="the prompt is empty"):
            session.generate()
        session.prefill(TOKENS, LENGTHS)
        assert made(session, 8, sampling) == whole


def test_the_oldest_checkpoints_go_first(mamba: OrtRunner) -> None:
    with mamba.session() as session:
        one = session._snapshot(caches=False).nbytes
        session.keep(4, 2 * one)
        session.prefill(np.arange(32)[None] + 32)
        assert session.rewind(30) == 28
        assert session.rewind(27) == 0
        with pytest.raises(UserError, match=rf"^`max_bytes` {one - 1}: a checkpoint of this session takes {one}"):
            session.keep(4, one - 1)
        with pytest.raises(UserError, match=r"^`tokens` 1: expected 0 to 0, which the session has now$"):
            session.rewind(1)


def test_what_was_given_is_read_wherever_it_is_left(mamba: OrtRunner) -> None:
    with started(mamba) as session:
        whole = made(session, 9, SAMPLED)
    with started(mamba) as session:
        for step, tokens in enumerate(session.generate(9, SAMPLED)):
            assert tokens.tolist() == whole[step]
            if step == 3:
                break
        assert session.lengths.tolist() == [10, 7]
        assert made(session, 5) == whole[4:]


def test_a_full_cache_and_an_ended_text(exported: Exported) -> None:
    with opened(exported, "preset:transformer") as runner, runner.session(2, 8) as session:
        session.prefill(TOKENS, LENGTHS)
        steps = made(session, 20)
        assert [sum(token >= 0 for token in row) for row in zip(*steps, strict=True)] == [2, 5]
        assert session.lengths.tolist() == [8, 8]
        assert made(session, 1) == []
        ended = steps[1][0]
        text = msgspec.structs.replace(runner.manifest.text, eos_token_ids=(ended,))
        manifest = msgspec.structs.replace(runner.manifest, language_model=text)
        with OrtRunner(Bundle(runner.bundle.path, manifest), threads=1) as ending, started(ending) as session:
            assert [row[0] for row in made(session, 4)] in ([steps[0][0]], [steps[0][0], -1, -1, -1])
            assert session.lengths[0] == 7


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_states_of_narrow_dtypes_are_saved_as_they_are(exported: Exported, dtype: str, tmp_path: Path) -> None:
    bundle = exported("jamba", target="portable", dtype=dtype, logits="last")
    with TorchRunner(bundle) as runner, runner.session(2) as session:
        session.prefill(TOKENS % VOCAB, LENGTHS)
        session.save(tmp_path / "a")
        with runner.restore(tmp_path / "a") as other:
            for name, state in session.read_states().items():
                np.testing.assert_array_equal(other.read_states()[name], state)
            assert made(other, 4, SAMPLED) == made(session, 4, SAMPLED)


@pytest.mark.parametrize("name", ["preset:mamba", "preset:hybrid"])
def test_sessions_travel_between_targets_and_backends(exported: Exported, name: str, tmp_path: Path) -> None:
    with opened(exported, name) as server, started(server) as session:
        made(session, 3, SAMPLED)
        session.save(tmp_path / "a")
        expected = made(session, 8)
    with opened(exported, name, target="portable") as board, board.restore(tmp_path / "a") as session:
        assert made(session, 8) == expected
    with (
        TorchRunner(server.bundle, original=resolve_source(name)) as original,
        original.restore(tmp_path / "a") as session,
    ):
        assert made(session, 8) == expected


def test_another_capacity(exported: Exported, tmp_path: Path) -> None:
    with opened(exported, "preset:transformer") as runner:
        with started(runner) as session:
            session.save(tmp_path / "a")
        with runner.restore(tmp_path / "a", 6) as session:
            assert session.capacity == 6
        with pytest.raises(UserError, match=r"^a sequence of 6 tokens: this session's capacity is 5"):
            runner.restore(tmp_path / "a", 5)


def test_bad_arguments(mamba: OrtRunner) -> None:
    with mamba.session() as session:
        with pytest.raises(UserError, match=r"^`every` 0: expected at least 1$"):
            session.keep(0, 1)
        session.prefill(np.array([[1]]))
        with pytest.raises(UserError, match=r"^`max_new_tokens` 0: expected at least 1$"):
            session.generate(0)


class Slow(OrtSession):
    """Stays in each call until it is told to go on."""

    def __init__(self, runner: OrtRunner) -> None:
        super().__init__(runner, 1, 0)
        self.entered, self.go_on = threading.Event(), threading.Event()

    def _run(self, tokens: Tokens, seq_lens: Lengths) -> Floats:
        self.entered.set()
        assert self.go_on.wait(30)
        return super()._run(tokens, seq_lens)


def test_a_second_thread_in_one_session_is_refused_and_nothing_changes(mamba: OrtRunner, tmp_path: Path) -> None:
    with mamba.session() as alone:
        expected = alone.prefill(np.array([[82, 101]]))
    with Slow(mamba) as session, ThreadPoolExecutor(1) as pool:
        first = pool.submit(session.prefill, np.array([[82, 101]]))
        assert session.entered.wait(30)
        calls: list[Callable[[], object]] = [
            lambda: session.prefill(np.array([[1]])), lambda: session.step(np.array([1])), session.reset, session.fork,
            session.read_states, session.close, lambda: session.keep(1, 1 << 20), lambda: session.rewind(0),
            lambda: session.save(tmp_path / "x"), lambda: session.generate(1),
            lambda: session.write_states({}, LENGTHS),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(UserError, match=r"^this session is in use by another thread; give each thread a ses"):
                call()
        session.go_on.set()
        np.testing.assert_array_equal(first.result(), expected)
        assert session.lengths.tolist() == [2]
        session.step(np.array([1]))


def test_threads_meet_in_one_session_and_none_ends_the_process(mamba: OrtRunner) -> None:
    """Every call answers as it would alone, or is refused."""

    def step(token: int) -> str:
        try:
            session.step(np.array([token]))
        except UserError as error:
            return str(error).partition(";")[0]
        return "read"

    with mamba.session() as session, ThreadPoolExecutor(4) as pool:
        told = list(pool.map(step, [1] * 200))
    assert set(told) <= {"read", "this session is in use by another thread"}
    assert session.lengths.tolist() == [told.count("read")]


def test_what_is_closed_says_so_and_can_be_closed_again(exported: Exported) -> None:
    runner = opened(exported, "preset:mamba")
    model = Model(runner)
    session, other = model.session(), model.session()
    session.close()
    session.close()
    with pytest.raises(UserError, match=r"^this session is closed; start a new one$"):
        session.prefill(TOKENS[:1])
    for _ in range(2):
        model.close()
        runner.close()
    for call in (lambda: other.prefill(TOKENS[:1]), model.session):
        with pytest.raises(UserError, match=r"^this model is closed; load it again$"):
            call()
    other.close()


@pytest.mark.parametrize(("tokens", "seq_lens", "told"), [
    ([[1.9, 2.0]], None, "tokens are float64: expected whole numbers"),
    ([[True]], None, "tokens are bool: expected whole numbers"),
    ([["1"]], None, r"tokens are <U1: expected whole numbers"),
    ([[2**64]], None, "tokens are object: expected whole numbers"),
    ([[2**63]], None, f"token {2**63}: outside the vocabulary"),
    ([[1], [2, 3]], None, "tokens: expected an array"),
    ([], None, r"tokens of shape \(0,\): expected \[1, at least 1\]; the prompt is empty"),
    ([[1, 2]], [2**32 + 1], r"seq_lens \[4294967297\]: expected 1 values from 0 to 2"),
    ([[1, 2]], [1.0], "seq_lens are float64: expected whole numbers"),
    ([[1, 2]], [[1]], r"seq_lens \[\[1\]\]: expected 1 values"),
])  # fmt: skip
def test_tokens_and_their_counts_are_taken_as_they_are(mamba: OrtRunner, tokens: Any, seq_lens: Any, told: str) -> None:
    with mamba.session() as session:
        with pytest.raises(UserError, match=told):
            session.prefill(tokens, seq_lens)
        assert session.lengths.tolist() == [0]


@pytest.mark.parametrize(("change", "lengths", "told"), [
    (lambda name, state: state, [-1, 3], r"lengths \[-1, 3\]: expected 2 values from 0 to"),
    (lambda name, state: state, [7, 3], r"key of shape \[2, \d+, 6, \d+\]: expected \[2, \d+, 7, \d+\], or more rows"),
    (lambda name, state: state, [CAPACITY + 1, 3], "a sequence of 97 tokens: this session's capacity is 96"),
    (lambda name, state: state, [2**32 + 1, 3], "lengths .*: expected 2 values from 0 to 2147483647"),
    (lambda name, state: state, [[6], [3]], r"lengths \[\[6\], \[3\]\]: expected 2 values"),
    (lambda name, state: state, [6, 3.5], "lengths are float64: expected whole numbers"),
    (lambda name, state: state[:1], [6, 3], r"of shape \[1, .*\]: expected \[2, "),
    (lambda name, state: state.astype(np.int32), [6, 3], "is int32: expected floats"),
    (lambda name, state: None if name.endswith("value") else state, [6, 3], "'past_key_values.*value' is missing"),
])  # fmt: skip
def test_states_that_do_not_fit_are_refused_before_anything_changes(
    exported: Exported, change: Callable[[str, Any], Any], lengths: Any, told: str
) -> None:
    with opened(exported, "preset:transformer") as runner, started(runner) as session:
        before = session.read_states()
        changed = {name: change(name, state) for name, state in before.items()}
        given = {name: state for name, state in changed.items() if state is not None}
        with pytest.raises(UserError, match=told):
            session.write_states(given, lengths)
        assert session.lengths.tolist() == LENGTHS.tolist()
        for name, state in session.read_states().items():
            np.testing.assert_array_equal(state, before[name])


def test_recent_tokens_are_the_last_of_each_sequence(mamba: OrtRunner) -> None:
    rng = np.random.default_rng(0)
    given: list[list[int]] = [[], []]
    with mamba.session(2) as session:
        for length in (1, 7, 40, 1, 3):
            tokens, lengths = rng.integers(0, 256, (2, length)), rng.integers(0, length + 1, 2).astype(np.int32)
            session.prefill(tokens, lengths)
            for row in range(2):
                given[row] += tokens[row, : lengths[row]].tolist()
                kept = session.recent[row][session.recent[row] >= 0]
                assert kept.tolist() == given[row][-32:]
