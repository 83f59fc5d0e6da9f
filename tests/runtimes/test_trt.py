"""The TensorRT runner's own work, over an engine that ONNX Runtime computes: memory, chunks, graphs, refusals."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Lengths, Tokens
from seqexport.runtimes.comparison.reference import read_reference
from seqexport.runtimes.comparison.verify import verify
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.storage import from_float32, numpy_dtype, widened
from seqexport.runtimes.trt.runner import TrtRunner
from tests.conftest import Exported
from tests.exporter.families import VOCAB
from tests.runtimes.fake_gpu import FakeContext, FakeRuntime, open_fake

CLOSE: dict[str, Any] = {"rtol": 2e-4, "atol": 2e-5}
MODELS = ("mamba", "llama", "jamba", "gemma2")
LOGITS = {"gemma2": "all"}


def tokens(*shape: int, seed: int = 0) -> Tokens:
    return np.random.default_rng(seed).integers(0, VOCAB, shape)


def lens(*values: int) -> Lengths:
    return np.array(values, np.int32)


def bundle_named(exported: Exported, name: str) -> Any:
    return exported(name, target="portable", logits=LOGITS.get(name, "last"))


@pytest.fixture
def jamba(exported: Exported) -> Iterator[tuple[TrtRunner, Any, FakeRuntime]]:
    runner, engine, runtime = open_fake(bundle_named(exported, "jamba"))
    with runner:
        yield runner, engine, runtime


@pytest.mark.parametrize("plugins", [True, False], ids=["in-place", "two-caches"])
@pytest.mark.parametrize("name", MODELS)
def test_the_recorded_reference_holds_with_chunks_and_graphs(name: str, plugins: bool, exported: Exported) -> None:
    bundle = bundle_named(exported, name)
    runner, engine, runtime = open_fake(bundle, plugins=plugins)
    with runner:
        checks = list(verify(runner, read_reference(bundle)))
        assert max(engine.widths) == 5
        assert runtime.launches > 0
    assert checks and all(check.passed for check in checks), checks
    assert (runtime.device, runtime.pinned, runtime.graphs) == ({}, {}, [])


@pytest.mark.parametrize("name", MODELS)
def test_ragged_calls_equal_onnx_runtime(name: str, exported: Exported) -> None:
    bundle = bundle_named(exported, name)
    ours = open_fake(bundle, longest=4)[0]
    calls = [
        (tokens(3, 11), lens(11, 4, 0)),
        (tokens(3, 6, seed=1), lens(0, 5, 6)),
        (tokens(3, 1, seed=2), lens(1, 0, 1)),
    ]
    with ours, OrtRunner(bundle, threads=1) as theirs, ours.session(3, 24) as a, theirs.session(3, 24) as b:
        for given, valid in calls * 2:
            if (a.lengths + valid).max() > 24:
                break
            x, y = a.prefill(given, valid), b.prefill(given, valid)
            assert x.shape == y.shape
            for row, n in enumerate(valid):
                last = slice(0, n) if x.shape[1] > 1 else slice(0, int(n > 0))
                np.testing.assert_allclose(x[row, last], y[row, last], **CLOSE)
        for key, state in b.read_states().items():
            np.testing.assert_allclose(a.read_states()[key], state, **CLOSE, err_msg=key)


def test_caches_stay_where_they_are_and_states_change_places(jamba: Any) -> None:
    runner, _, _ = jamba
    with runner.session(1, 16) as session:
        session.prefill(tokens(1, 3))
        for spec in runner.manifest.states:
            first, second = session._states[spec.past_name]
            assert (first is second) == spec.grows, spec.past_name


def test_decode_is_captured_once_for_each_place_after_a_plain_step(jamba: Any) -> None:
    runner, engine, runtime = jamba
    with runner.session(2, 24) as session:
        session.prefill(tokens(2, 4))
        assert engine.enqueued == 1
        for step in range(6):
            session.step(tokens(2, seed=step))
        assert (engine.enqueued, len(runtime.graphs), runtime.launches) == (4, 2, 5)
        session.prefill(tokens(2, 3), lens(3, 1))
        for step in range(3):
            session.step(tokens(2, seed=step))
        assert (len(runtime.graphs), runtime.launches) == (2, 8)
    assert runtime.graphs == []
    assert runner.description.endswith("target portable, decode as a CUDA graph")


def test_without_graphs_decode_goes_on_and_the_description_says_so(jamba: Any) -> None:
    runner, _, runtime = jamba
    with runner.session(1, 24) as a:
        expected = [a.step(tokens(1, seed=step)) for step in range(5)]
    runtime.refuse_capture = True
    runner.no_graph = None
    launches = runtime.launches
    with runner.session(1, 24) as b:
        for step in range(5):
            np.testing.assert_array_equal(b.step(tokens(1, seed=step)), expected[step])
    assert runtime.launches == launches
    assert "without a CUDA graph (cudaStreamEndCapture: cudaErrorStreamCaptureUnsupported)" in runner.description


def test_sessions_share_an_engine_and_nothing_else(jamba: Any) -> None:
    runner, _, _ = jamba
    fed = {0: tokens(2, 12, seed=3), 1: tokens(2, 12, seed=4)}
    alone = {}
    for key, given in fed.items():
        with runner.session(2, 16) as session:
            alone[key] = [session.prefill(given[:, i : i + 2]) for i in range(0, 12, 2)] + [session.step(given[:, 0])]
    with runner.session(2, 16) as a, runner.session(2, 20) as b:
        for i in range(0, 12, 2):
            for key, session in ((0, a), (1, b)):
                np.testing.assert_array_equal(session.prefill(fed[key][:, i : i + 2]), alone[key][i // 2])
        np.testing.assert_array_equal(b.step(fed[1][:, 0]), alone[1][-1])
        np.testing.assert_array_equal(a.step(fed[0][:, 0]), alone[0][-1])


@pytest.mark.parametrize("width", [4, 1], ids=["prompt", "token"])
def test_sessions_in_two_threads_take_turns(jamba: Any, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread has enqueued its work and not waited for it yet: the other changes nothing that it is to read."""
    runner, _, _ = jamba
    given = {key: tokens(2, width, seed=key) for key in (0, 1)}
    alone = {}
    for key, fed in given.items():
        with runner.session(2, 16) as session:
            session.step(fed[:, 0])
            alone[key] = session.prefill(fed)
    enqueued, ended = threading.Event(), threading.Event()
    execute = FakeContext.execute_async_v3

    def paused(context: FakeContext, stream: int) -> bool:
        done = execute(context, stream)
        if not enqueued.is_set():
            enqueued.set()
            ended.wait(0.5)
        return done

    def second(session: Any) -> Any:
        enqueued.wait()
        try:
            return session.prefill(given[1])
        finally:
            ended.set()

    with runner.session(2, 16) as a, runner.session(2, 16) as b, ThreadPoolExecutor() as threads:
        for key, session in ((0, a), (1, b)):
            session.step(given[key][:, 0])
        monkeypatch.setattr(FakeContext, "execute_async_v3", paused)
        other = threads.submit(second, b)
        np.testing.assert_array_equal(a.prefill(given[0]), alone[0])
        np.testing.assert_array_equal(other.result(), alone[1])


def test_states_travel_to_another_session(jamba: Any) -> None:
    runner, _, _ = jamba
    with runner.session(2, 20) as a, runner.session(2, 24) as b:
        a.prefill(tokens(2, 7), lens(7, 4))
        b.step(tokens(2))
        b.write_states(a.read_states(), a.lengths)
        np.testing.assert_array_equal(a.step(tokens(2, seed=5)), b.step(tokens(2, seed=5)))


def test_a_fork_copies_on_the_device_and_goes_on_by_itself(jamba: Any) -> None:
    runner, _, runtime = jamba
    with runner.session(2, 20) as session:
        session.prefill(tokens(2, 7), lens(7, 4))
        session.step(tokens(2))
        with session.fork() as other:
            assert runtime.copied_on_device == len(runner.manifest.states)
            expected = list(session.generate(4, Sampling(temperature=1.0, seed=3)))
            np.testing.assert_array_equal(list(other.generate(4, Sampling(temperature=1.0, seed=3))), expected)
            other.step(tokens(2, seed=9))
        np.testing.assert_array_equal(session.lengths, [12, 9])


@pytest.mark.parametrize(("capacity", "on_device"), [(20, True), (30, False)], ids=["same room", "other room"])
def test_a_row_goes_on_in_another_session(jamba: Any, capacity: int, on_device: bool) -> None:
    runner, _, runtime = jamba
    with runner.session(2, 20) as session, runner.session(4, capacity) as other:
        session.prefill(tokens(2, 7), lens(7, 4))
        other.prefill(tokens(4, 3, seed=5))
        other.copy_rows(2, session, 1)
        assert runtime.copied_on_device == on_device * len(runner.manifest.states)
        row, copied = session.read_row(1), other.read_row(2)
        np.testing.assert_array_equal(other.lengths, [3, 3, 4, 3])
        np.testing.assert_array_equal(copied.logits, row.logits)
        assert row.states.keys() == copied.states.keys()
        for name, state in row.states.items():
            np.testing.assert_array_equal(copied.states[name], state)


def test_a_saved_session_goes_on_in_another_backend(jamba: Any, tmp_path: Path) -> None:
    runner, _, _ = jamba
    with runner.session(2, 20) as session:
        session.prefill(tokens(2, 7), lens(7, 4))
        session.save(tmp_path / "a")
        with OrtRunner(runner.bundle, threads=1) as theirs, theirs.restore(tmp_path / "a", 20) as other:
            np.testing.assert_allclose(other.step(tokens(2)), session.step(tokens(2)), **CLOSE)


def test_prompts_shorter_than_the_profile_are_padded(exported: Exported) -> None:
    bundle = bundle_named(exported, "gemma2")
    runner, engine, _ = open_fake(bundle, shortest=4, longest=6)
    with runner, OrtRunner(bundle, threads=1) as theirs, runner.session(1, 16) as a, theirs.session(1, 16) as b:
        np.testing.assert_allclose(a.prefill(tokens(1, 2)), b.prefill(tokens(1, 2)), **CLOSE)
        assert engine.widths == [4]


def test_shapes_outside_the_profiles_name_the_option(jamba: Any, exported: Exported) -> None:
    runner, engine, _ = jamba
    with pytest.raises(UserError, match=r"batch of 5: the engine takes 1 to 4 sequences.*--maxShapes input_ids:5x5"):
        runner.session(5, 8)
    with pytest.raises(UserError, match="the bundle was exported for at most"):
        runner.session(1, 10**6)
    assert engine.enqueued == 0


def test_a_capacity_overrun_is_refused_before_anything_runs(jamba: Any) -> None:
    runner, engine, _ = jamba
    with runner.session(2, 10) as session:
        session.prefill(tokens(2, 9), lens(9, 2))
        before, ran = session.read_states(), engine.enqueued
        with pytest.raises(UserError, match="a sequence of 11 tokens: this session's capacity is 10"):
            session.prefill(tokens(2, 2))
        assert engine.enqueued == ran
        for name, state in session.read_states().items():
            np.testing.assert_array_equal(state, before[name])


def test_out_of_memory_frees_what_was_taken_and_leaves_others_alone(exported: Exported) -> None:
    runner, _, runtime = open_fake(bundle_named(exported, "llama"), room=40_000)
    with runner, runner.session(1, 8) as session:
        expected = session.prefill(tokens(1, 5))
        used, pinned = runtime.used, len(runtime.pinned)
        with pytest.raises(UserError, match=r"device memory: wanted .+, free .+; use a smaller batch or capacity"):
            runner.session(4, 64)
        assert (runtime.used, len(runtime.pinned)) == (used, pinned)
        with runner.session(1, 8) as another:
            np.testing.assert_array_equal(another.prefill(tokens(1, 5)), expected)
        session.step(tokens(1))


def test_a_failure_leaves_the_session_as_it_was_or_closes_it(jamba: Any) -> None:
    runner, engine, _ = jamba
    with runner.session(1, 24) as session:
        session.prefill(tokens(1, 4))
        before = session.read_states()
        engine.fail_at = engine.enqueued
        with pytest.raises(UserError, match=r"TensorRT 8.6.0 failed"):
            session.prefill(tokens(1, 4))
        for name, state in session.read_states().items():
            np.testing.assert_array_equal(state, before[name])
        session.step(tokens(1))
        engine.fail_at = engine.enqueued + 1
        with pytest.raises(UserError, match=r"TensorRT 8.6.0 failed"):
            session.prefill(tokens(1, 9))
        with pytest.raises(UserError, match="this session is closed"):
            session.step(tokens(1))


def test_what_is_forgotten_is_freed(jamba: Any) -> None:
    runner, _, runtime = jamba
    with runner.session(2, 24) as first:
        first.prefill(tokens(2, 9))
    used, pinned = runtime.used, dict(runtime.pinned)  # a prompt's way in and out is kept for the next session
    session = runner.session(2, 24)
    session.prefill(tokens(2, 9))
    for step in range(3):
        session.step(tokens(2, seed=step))
    del session
    gc.collect()
    assert (runtime.used, runtime.pinned, runtime.graphs) == (used, pinned, [])
    runner.close()
    assert (runtime.used, runtime.pinned) == (0, {})


def test_half_precision_comes_back_widened(exported: Exported) -> None:
    bundle = exported("jamba", target="portable", logits="last", dtype="float16")
    runner = open_fake(bundle)[0]
    with runner, OrtRunner(bundle, threads=1) as theirs, runner.session(1, 16) as a, theirs.session(1, 16) as b:
        x, y = a.prefill(tokens(1, 5)), b.prefill(tokens(1, 5))
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, y)
        assert {key: value.dtype for key, value in a.read_states().items()} == {
            key: value.dtype for key, value in b.read_states().items()
        }


def test_memory_is_told(jamba: Any) -> None:
    runner, _, runtime = jamba
    runner.reset_peak_device_memory()
    before = runner.peak_device_memory()
    with runner.session(4, 24):
        held = runtime.used
    assert runner.peak_device_memory() == held > before


def test_bfloat16_is_rounded_to_the_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -2.5e-39, np.inf, -np.inf, 3.4e38, np.nan], np.float32)
    bits = from_float32(values, "bfloat16")
    assert bits.dtype == np.uint16
    back = widened(bits.view(numpy_dtype("bfloat16")))
    expected = [1.0, 1.0, 1.015625, -2.5e-39, np.inf, -np.inf, np.inf, np.nan]
    np.testing.assert_allclose(back, np.array(expected, np.float32), rtol=2**-8, atol=1e-40)
    np.testing.assert_array_equal(from_float32(back, "bfloat16")[:-1], bits[:-1])


def test_a_row_of_a_session_moves_to_another(jamba: tuple[TrtRunner, Any, FakeRuntime]) -> None:
    runner, _, _ = jamba
    with runner.session(2, 16) as two, runner.session(3, 16) as three, runner.session(1, 16) as alone:
        two.prefill(tokens(2, 5), lens(5, 3))
        alone.prefill(tokens(2, 5)[1:, :3])
        three.prefill(tokens(3, 4, seed=1))
        before = three.read_states()
        three.write_row(1, two.read_row(1))
        assert three.lengths.tolist() == [4, 3, 4]
        for name, state in three.read_states().items():
            np.testing.assert_array_equal(state[[0, 2]], before[name][[0, 2]])
        fed = tokens(3, seed=2)
        np.testing.assert_allclose(three.step(fed)[1:2], alone.step(fed[1:2]), **CLOSE)
