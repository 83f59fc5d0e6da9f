"""The PyTorch side: sequences, chunks and states are what transformers computes on each sequence alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.pytorch.runner import TorchRunner
from tests.runtimes.tiny import NAMES, VOCAB, bundle_of, make

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module", params=NAMES)
def opened(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, Bundle]:
    model = make(request.param)
    return model, bundle_of(model)


def tokens(*shape: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, VOCAB, shape)


def whole(model: PreTrainedModel, row: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits [L, vocab] of one sequence with no cache at all."""
    with torch.inference_mode():
        return np.asarray(model(input_ids=torch.from_numpy(row[None]), use_cache=False).logits[0].numpy())


def assert_states_equal(a: Any, b: Any) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], **CLOSE, err_msg=name)


@pytest.mark.parametrize("lengths", [[9, 9, 9], [9, 4, 1], [3, 0, 9]])
def test_rows_equal_each_row_alone(opened: tuple[PreTrainedModel, Bundle], lengths: list[int]) -> None:
    model, bundle = opened
    first, second = tokens(3, 9), tokens(3, 4, seed=1)
    more = [4, 2, 3] if len(set(lengths)) > 1 else [4, 4, 4]
    with TorchRunner(bundle, model) as runner, runner.session(3) as session:
        assert session.prefill(first, np.array(lengths, np.int32)).shape == (3, 1, VOCAB)
        logits = session.prefill(second, np.array(more, np.int32))
        states = session.read_states()
        np.testing.assert_array_equal(session.lengths, np.add(lengths, more))
        for b in range(3):
            row = np.concatenate([first[b, : lengths[b]], second[b, : more[b]]])
            np.testing.assert_allclose(logits[b, 0], whole(model, row)[-1], **CLOSE)
            with runner.session() as alone:
                alone.prefill(row[None])
                grows = {spec.past_name: spec.grows for spec in bundle.manifest.states}
                for name, state in alone.read_states().items():
                    kept = states[name][b : b + 1]
                    if grows[name]:
                        assert not kept[:, :, row.size :].any()
                        kept = kept[:, :, : row.size]
                    np.testing.assert_allclose(kept, state, **CLOSE, err_msg=name)


def test_decode_equals_the_whole(opened: tuple[PreTrainedModel, Bundle]) -> None:
    model, bundle = opened
    ids = tokens(2, 20)
    with TorchRunner(bundle, model) as runner, runner.session(2) as session:
        steps = [session.step(ids[:, t]) for t in range(20)]
    for b in range(2):
        np.testing.assert_allclose(np.stack([step[b] for step in steps]), whole(model, ids[b]), **CLOSE)


def test_logits_of_all_tokens(opened: tuple[PreTrainedModel, Bundle]) -> None:
    model, bundle = opened
    ids = tokens(2, 9)
    with TorchRunner(bundle, model, logits="all") as runner, runner.session(2) as session:
        logits = np.concatenate([session.prefill(ids[:, :5]), session.prefill(ids[:, 5:])], axis=1)
        ragged = runner.session(2).prefill(ids, np.array([9, 6], np.int32))
    for b in range(2):
        np.testing.assert_allclose(logits[b], whole(model, ids[b]), **CLOSE)
    np.testing.assert_allclose(ragged[1, :6], whole(model, ids[1, :6]), **CLOSE)
    assert not ragged[1, 6:].any()


def test_states_follow_the_manifest(opened: tuple[PreTrainedModel, Bundle]) -> None:
    model, bundle = opened
    with TorchRunner(bundle, model) as runner, runner.session(2) as session:
        for length in (0, 1, 8):
            if length:
                session.prefill(tokens(2, max(1, length - int(session.lengths[0]))))
            states = session.read_states()
            assert list(states) == [spec.past_name for spec in bundle.manifest.states]
            for spec in bundle.manifest.states:
                assert states[spec.past_name].shape == spec.sizes(2, length)
                assert states[spec.past_name].dtype == np.float32


@pytest.mark.parametrize("lengths", [[7, 7], [7, 3]])
def test_states_carry_over_to_another_session(opened: tuple[PreTrainedModel, Bundle], lengths: list[int]) -> None:
    model, bundle = opened
    with TorchRunner(bundle, model) as runner, runner.session(2) as session, runner.session(2) as other:
        session.prefill(tokens(2, 7), np.array(lengths, np.int32))
        other.write_states(session.read_states(), session.lengths)
        assert_states_equal(session.read_states(), other.read_states())
        for t in range(8):  # beyond the sliding window
            step = tokens(2, seed=t)
            np.testing.assert_allclose(session.step(step), other.step(step), **CLOSE)
        assert_states_equal(session.read_states(), other.read_states())


def test_written_states_are_copied(opened: tuple[PreTrainedModel, Bundle]) -> None:
    model, bundle = opened
    with TorchRunner(bundle, model) as runner, runner.session() as session, runner.session() as other:
        session.prefill(tokens(1, 5))
        states = session.read_states()
        before = {name: state.copy() for name, state in states.items()}
        other.write_states(states, session.lengths)
        other.step(tokens(1))
        session.step(tokens(1))
        for name in states:
            np.testing.assert_array_equal(states[name], before[name])


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_states_come_as_float32(name: str) -> None:
    model = make(name, torch.bfloat16)
    with TorchRunner(bundle_of(model), model) as runner, runner.session() as session:
        assert session.prefill(tokens(1, 5)).dtype == np.float32
        states = session.read_states()
        assert {state.dtype for state in states.values()} == {np.dtype(np.float32)}
        with runner.session() as other:
            other.write_states(states, session.lengths)
            step = tokens(1)
            np.testing.assert_array_equal(session.step(step), other.step(step))


def test_float64_arithmetic(opened: tuple[PreTrainedModel, Bundle]) -> None:
    model, bundle = opened
    ids = tokens(2, 20)
    with TorchRunner(bundle, model, arithmetic="float64", logits="all") as runner:
        with runner.session(2) as once, runner.session(2) as steps, runner.session(2) as carried:
            expected = once.prefill(ids)
            steps.prefill(ids[:, :9])
            carried.write_states(steps.read_states(), steps.lengths)
            for session in (steps, carried):
                logits = session.prefill(ids[:, 9:])
                assert logits.dtype == np.float64
                np.testing.assert_allclose(logits, expected[:, 9:], rtol=1e-10, atol=1e-12)
            for name, state in carried.read_states().items():
                assert state.dtype == np.float64
                np.testing.assert_allclose(state, once.read_states()[name], rtol=1e-10, atol=1e-12)
        assert "float64" in runner.description
    np.testing.assert_allclose(expected[0], whole(model, ids[0]), **CLOSE)


def test_refuses_more_than_the_capacity() -> None:
    model = make("llama")
    with TorchRunner(bundle_of(model, capacity=8), model) as runner, runner.session() as session:
        session.prefill(tokens(1, 6))
        states = session.read_states()
        with pytest.raises(UserError, match="a sequence of 9 tokens"):
            session.prefill(tokens(1, 3))
        assert_states_equal(session.read_states(), states)
        with pytest.raises(UserError, match="a sequence of 9 tokens"):
            session.write_states(states, np.array([9], np.int32))
        np.testing.assert_array_equal(session.lengths, [6])
