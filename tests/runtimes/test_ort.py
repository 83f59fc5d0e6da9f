"""ONNX Runtime against the original and against itself: rows, chunks, steps, states, capacity."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Lengths, States, Tokens
from seqexport.runtimes.bundle import open_bundle
from seqexport.runtimes.comparison.reference import read_reference
from seqexport.runtimes.comparison.verify import verify
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.pytorch.runner import TorchRunner
from tests.conftest import Exported
from tests.exporter.families import VOCAB
from tests.hub import in_hub_cache

CLOSE: dict[str, Any] = {"rtol": 2e-4, "atol": 2e-5}
CAPACITY = 24
MODELS = [(name, target) for name in ("mamba", "llama", "jamba", "gemma2") for target in ("portable", "ort")]
LOGITS = {"gemma2": "all"}


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def runner(request: pytest.FixtureRequest, exported: Exported) -> Iterator[OrtRunner]:
    name, target = request.param
    with OrtRunner(exported(name, target=target, logits=LOGITS.get(name, "last")), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def in_place(exported: Exported) -> Iterator[OrtRunner]:
    with OrtRunner(exported("jamba", target="ort", logits="last"), threads=1) as opened:
        yield opened


def tokens(*shape: int, seed: int = 0) -> Tokens:
    return np.random.default_rng(seed).integers(0, VOCAB, shape)


def lens(*values: int) -> Lengths:
    return np.array(values, np.int32)


def alone(runner: OrtRunner, row: Tokens) -> tuple[NDArray[np.float32], States]:
    """Logits [vocab] after a row's last token, and its states, when it is fed whole and by itself."""
    with runner.session(1, CAPACITY) as session:
        return session.prefill(row[None])[0, -1], session.read_states()


def assert_row(states: States, row: int, expected: States) -> None:
    for name, state in expected.items():
        kept = states[name][row : row + 1]
        kept = kept[:, :, : state.shape[2]] if state.ndim == 4 else kept
        np.testing.assert_allclose(kept, state, **CLOSE, err_msg=name)


def last(logits: NDArray[np.float32], seq_lens: Lengths) -> NDArray[np.float32]:
    """Logits [batch, vocab] at each sequence's last valid token."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[np.arange(len(logits)), np.maximum(seq_lens - 1, 0)]


@pytest.mark.parametrize("sizes", [(12,), (1,) * 12, (5, 7), (1, 4, 1, 6), (7, 1, 1, 1, 1, 1)], ids=str)
def test_chunks_and_steps_equal_the_whole_prefill(runner: OrtRunner, sizes: tuple[int, ...]) -> None:
    row = tokens(12)
    expected, states = alone(runner, row)
    with runner.session(1, CAPACITY) as session:
        for part in np.split(row, np.cumsum(sizes)[:-1]):
            logits = session.prefill(part[None])[:, -1]
        np.testing.assert_allclose(logits[0], expected, **CLOSE)
        assert_row(session.read_states(), 0, states)


def test_ragged_rows_equal_the_rows_alone(runner: OrtRunner) -> None:
    first, second, calls = tokens(4, 9), tokens(4, 5, seed=1), (lens(9, 4, 1, 0), lens(2, 5, 0, 3))
    with runner.session(4, CAPACITY) as session:
        session.prefill(first, calls[0])
        logits = last(session.prefill(second, calls[1]), calls[1])
        stepped = session.step(second[:, 0])
        states = session.read_states()
        np.testing.assert_array_equal(session.lengths, calls[0] + calls[1] + 1)
    for b, (n, m) in enumerate(zip(*calls, strict=True)):
        row = np.concatenate([first[b, :n], second[b, :m], second[b, :1]])
        if m:
            np.testing.assert_allclose(logits[b], alone(runner, row[:-1])[0], **CLOSE)
        expected, kept = alone(runner, row)
        np.testing.assert_allclose(stepped[b], expected, **CLOSE)
        assert_row(states, b, kept)


def test_what_stands_in_padding_changes_nothing(runner: OrtRunner) -> None:
    given, seq_lens = tokens(2, 6), lens(6, 2)
    other = given.copy()
    other[1, 2:] = 7
    with runner.session(2, CAPACITY) as a, runner.session(2, CAPACITY) as b:
        for session, fed in ((a, given), (b, other)):
            session.prefill(fed, seq_lens)
        np.testing.assert_array_equal(a.step(given[:, 0]), b.step(given[:, 0]))


def test_a_row_without_tokens_keeps_its_states(runner: OrtRunner) -> None:
    with runner.session(2, CAPACITY) as session:
        session.prefill(tokens(2, 6), lens(6, 3))
        before = session.read_states()
        session.prefill(tokens(2, 4, seed=1), lens(4, 0))
        after = session.read_states()
    for name, state in before.items():
        kept = after[name][1:]
        kept, state = (x[:, :, :3] if x.ndim == 4 else x for x in (kept, state[1:]))
        np.testing.assert_array_equal(kept, state)


def test_padding_may_pass_the_capacity_where_valid_tokens_fit(runner: OrtRunner) -> None:
    first, second = tokens(2, 12), tokens(2, 9, seed=1)
    with runner.session(2, 14) as session:
        session.prefill(first, lens(12, 2))
        logits = last(session.prefill(second, lens(1, 9)), lens(1, 9))
        idle = last(session.prefill(second[:, :1], lens(1, 0)), lens(1, 0))
        full = last(session.prefill(second[:, :1], lens(0, 1)), lens(0, 1))
        assert session.lengths.tolist() == [14, 12]
    rows = [np.concatenate([first[0], second[0, :1]]), np.concatenate([first[1, :2], second[1]])]
    for b, row in enumerate(rows):
        np.testing.assert_allclose(logits[b], alone(runner, row)[0], **CLOSE)
        longer = alone(runner, np.append(row, second[b, 0]))[0]
        np.testing.assert_allclose((idle, full)[b][b], longer, **CLOSE)


def test_overrun_is_refused_before_anything_changes(exported: Exported) -> None:
    for target in ("portable", "ort"):
        with OrtRunner(exported("llama", target=target, logits="last"), threads=1) as runner:
            with runner.session(2, 8) as session:
                session.prefill(tokens(2, 6), lens(6, 3))
                before = session.read_states()
                with pytest.raises(UserError, match=r"^a sequence of 9 tokens: this session's capacity is 8; shorten"):
                    session.prefill(tokens(2, 3), lens(3, 1))
                assert session.lengths.tolist() == [6, 3]
                for name, state in session.read_states().items():
                    np.testing.assert_array_equal(state, before[name])
                session.prefill(tokens(2, 3), lens(2, 3))
            with pytest.raises(UserError, match=r"^capacity of 65 tokens: the bundle was exported for at most 64"):
                runner.session(1, 65)


def test_a_states_model_has_no_capacity(exported: Exported) -> None:
    with OrtRunner(exported("mamba", target="portable", logits="last")) as runner, runner.session() as session:
        assert runner.manifest.capacity is None
        session.prefill(tokens(1, 500))
        assert session.lengths.tolist() == [500]


@pytest.mark.parametrize("given", [[[0, VOCAB]], [[-1, 0]], np.zeros((1, 0)), np.zeros((2, 3), int), [0, 1]], ids=str)
def test_bad_tokens_are_refused(in_place: OrtRunner, given: Any) -> None:
    with in_place.session(1, 8) as session:
        with pytest.raises(UserError, match=r"outside the vocabulary of 37|expected \[1, at least 1\]"):
            session.prefill(np.array(given))
        assert session.lengths.tolist() == [0]


@pytest.mark.parametrize("seq_lens", [[4], [-1], [1, 1]], ids=str)
def test_bad_lengths_are_refused(in_place: OrtRunner, seq_lens: list[int]) -> None:
    with in_place.session(1, 8) as session, pytest.raises(UserError, match="expected 1 values from 0 to 3"):
        session.prefill(tokens(1, 3), lens(*seq_lens))


def test_states_move_between_backends_both_ways(runner: OrtRunner) -> None:
    first, second, seq_lens = tokens(2, 7), tokens(2, seed=1), lens(7, 3)
    with TorchRunner(runner.bundle) as torch_, torch_.session(2, CAPACITY) as b, runner.session(2, CAPACITY) as a:
        a.prefill(first, seq_lens)
        b.write_states(a.read_states(), a.lengths)
        expected = a.step(second)
        np.testing.assert_allclose(b.step(second), expected, **CLOSE)
        with runner.session(2, CAPACITY) as c:
            c.prefill(first[:, ::-1], lens(2, 5))
            c.write_states(b.read_states(), b.lengths)
            assert c.lengths.tolist() == [8, 4]
            np.testing.assert_allclose(c.step(second), a.step(second), **CLOSE)


def test_states_that_were_read_stay_as_they_were(in_place: OrtRunner) -> None:
    with in_place.session(1, CAPACITY) as session:
        session.prefill(tokens(1, 5))
        states = session.read_states()
        copies = {name: state.copy() for name, state in states.items()}
        session.write_states({name: state + 1 for name, state in states.items()}, session.lengths)
        session.prefill(tokens(1, 9))
    for name, state in states.items():
        np.testing.assert_array_equal(state, copies[name])


def test_states_beyond_the_capacity_are_refused_before_anything_changes(in_place: OrtRunner) -> None:
    with in_place.session(1, 12) as long, in_place.session(1, 8) as short:
        long.prefill(tokens(1, 9))
        short.prefill(tokens(1, 2))
        before = short.read_states()
        for lengths in (long.lengths, lens(3)):
            with pytest.raises(UserError, match=r"9 tokens.*capacity is 8"):
                short.write_states(long.read_states(), lengths)
        for name, state in short.read_states().items():
            np.testing.assert_array_equal(state, before[name])


def test_sessions_on_one_runner_are_independent(runner: OrtRunner) -> None:
    rows = tokens(3, 8)
    sessions = [runner.session(1, CAPACITY) for _ in rows]
    for t in range(0, 8, 2):
        logits = [session.prefill(row[None, t : t + 2])[:, -1] for session, row in zip(sessions, rows, strict=True)]
    for b, row in enumerate(rows):
        expected, states = alone(runner, row)
        np.testing.assert_allclose(logits[b][0], expected, **CLOSE)
        assert_row(sessions[b].read_states(), 0, states)


@pytest.mark.parametrize("target", ["portable", "ort"])
def test_only_the_target_ort_updates_caches_in_place(exported: Exported, target: str) -> None:
    with OrtRunner(exported("jamba", target=target, logits="last")) as runner, runner.session(1, 8) as session:
        session.step(tokens(1))
        for spec in runner.manifest.states:
            past, present = session._past[spec.past_name], session._present[spec.present_name]
            assert (past is present) == (spec.grows and target == "ort"), spec.past_name


def test_caches_of_heads_that_onnx_runtime_does_not_take_are_not_in_place(exported: Exported) -> None:
    bundle = exported("irregular", target="ort", logits="last")
    assert not bundle.manifest.caches_in_place
    with OrtRunner(bundle, threads=1) as runner, runner.session(1, 8) as session:
        session.prefill(tokens(1, 8))


def test_threads_are_what_the_caller_asks_for(in_place: OrtRunner) -> None:
    assert in_place.engine.get_session_options().intra_op_num_threads == 1


def test_logits_of_all_tokens_equal_the_originals(exported: Exported) -> None:
    first, second, calls = tokens(3, 9), tokens(3, 6, seed=1), (lens(9, 3, 1), lens(1, 6, 4))
    for target in ("portable", "ort"):
        bundle = exported("gemma2", target=target, logits="all")
        with OrtRunner(bundle, threads=1) as ours, TorchRunner(bundle) as theirs:
            a, b = ours.session(3, CAPACITY), theirs.session(3, CAPACITY)
            for given, valid in zip((first, second), calls, strict=True):
                x, y = a.prefill(given, valid), b.prefill(given, valid)
                assert x.shape == (3, given.shape[1], VOCAB)
                for row, n in enumerate(valid):
                    np.testing.assert_allclose(x[row, :n], y[row, :n], **CLOSE)


def test_description_names_version_and_target(in_place: OrtRunner) -> None:
    assert "CPUExecutionProvider, target ort" in in_place.description


def test_a_bundle_in_the_hubs_cache_runs(exported: Exported, tmp_path: Path) -> None:
    cached = in_hub_cache(exported("gemma2", target="portable", logits="all"), tmp_path)
    with OrtRunner(open_bundle(cached.path), threads=1) as runner:
        checks = list(verify(runner, read_reference(cached)))
    assert checks
    assert [check for check in checks if not check.passed] == []


REFUSALS = {
    "1.24.1": 'External data path: "model.onnx.data" escapes model directory: "x"',
    "1.24.4": 'External data path: "model.onnx.data" (resolved path: "y") escapes both model directory: "x" and',
    "1.32.0": 'External data path escapes model directory. External data path: "model.onnx.data" resolved path: "y"',
}
"""What versions of ONNX Runtime say of weights behind a link that they do not follow."""


@pytest.mark.parametrize("version", REFUSALS)
@pytest.mark.parametrize("cached", [True, False])
def test_links_that_are_not_followed_are_said_with_the_way_out(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, cached: bool
) -> None:
    bundle = exported("gemma2", target="portable", logits="all")
    bundle = in_hub_cache(bundle, tmp_path) if cached else bundle

    def refuse(*args: Any, **options: Any) -> None:
        raise RuntimeError(f"External data path validation failed for initializer: w. Error: {REFUSALS[version]}")

    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    with pytest.raises(UserError) as error:
        OrtRunner(bundle)
    said = str(error.value)
    assert f"cp -rL {bundle.path} FOLDER" in said
    assert ("use one that is not 1.24.1" in said) == cached
