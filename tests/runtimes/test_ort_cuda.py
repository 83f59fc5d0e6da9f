"""The ONNX Runtime runner on CUDA: graphs of decode steps, over a stand-in for the provider and on a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.runtimes import graph_interface
from seqexport.runtimes.base import Lengths, Tokens
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.comparison.reference import read_reference
from seqexport.runtimes.comparison.verify import verify
from seqexport.runtimes.ort import cuda, device_copy
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.ort.tensor import Tensor
from seqexport.runtimes.storage import stored_zeros
from tests.conftest import Exported, leave_out
from tests.exporter.families import VOCAB
from tests.runtimes.fake_cuda import DeviceValue, FakeOrt, fake_cuda
from tests.runtimes.ort_attention import runnable

__all__ = ["fake_cuda"]
CLOSE: dict[str, Any] = {"rtol": 2e-4, "atol": 2e-5}
CAPACITY = 24
MODELS = [("mamba", "portable"), ("llama", "portable"), ("llama", "ort"), ("jamba", "portable")]
SHIPPED = ["preset:mamba", "preset:transformer"]


def tokens(*shape: int, seed: int = 0, vocab: int = VOCAB) -> Tokens:
    return np.random.default_rng(seed).integers(0, vocab, shape)


def lens(*values: int) -> Lengths:
    return np.array(values, np.int32)


@pytest.fixture
def plugins(native_library: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(native_library("onnxruntime").parent))


@pytest.fixture(params=MODELS, ids="-".join)
def pair(
    request: pytest.FixtureRequest, exported: Exported, plugins: None, fake_cuda: FakeOrt
) -> Iterator[tuple[OrtRunner, OrtRunner]]:
    """On the stand-in for CUDA: decode as graphs, and without."""
    bundle = runnable(exported(request.param[0], target=request.param[1], logits="last"))
    graphs, plain = (OrtRunner(bundle, device="cuda", threads=1, cuda_graphs=wanted) for wanted in (True, False))
    with graphs, plain:
        yield graphs, plain


def mixed(runner: OrtRunner) -> list[NDArray[Any]]:
    """Two sessions of different batch in turns, prefill between steps, states written in the middle of decoding."""
    found: list[NDArray[Any]] = []
    with runner.session(2, CAPACITY) as a, runner.session(3, 12) as b:
        found += [a.prefill(tokens(2, 6), lens(6, 3)), b.prefill(tokens(3, 4))]
        kept, lengths = a.read_states(), a.lengths
        for step in range(5):
            found += [a.step(tokens(2, seed=step)), b.step(tokens(3, seed=step))]
        found.append(a.prefill(tokens(2, 3), lens(3, 1)))
        found.append(a.prefill(tokens(2, 1), lens(1, 0)))
        a.write_states(kept, lengths)
        found += [a.step(tokens(2, seed=step)) for step in range(4)]
        found += [*a.read_states().values(), *b.read_states().values()]
    return found


def test_graphs_give_what_plain_runs_give(pair: tuple[OrtRunner, OrtRunner]) -> None:
    graphs, plain = pair
    assert (graphs.no_graph, plain.no_graph) == (None, "not asked for")
    for ours, theirs in zip(mixed(graphs), mixed(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_place_of_every_session_has_a_graph_of_its_own(pair: tuple[OrtRunner, OrtRunner]) -> None:
    runner, _ = pair
    engine: Any = runner.engine
    places = 1 if runner.caches_in_place and runner.manifest.family == "transformer" else 2
    assert len(set(engine.runs)) == places
    engine.runs.clear()
    with runner.session(1, 8) as a, runner.session(2, 8) as b:
        a.prefill(tokens(1, 2))
        for _ in range(4):
            a.step(tokens(1))
            b.step(tokens(2))
        assert engine.runs[0] == "-1"
        first, second = engine.runs[1::2], engine.runs[2::2]
        assert [first[i] == first[i + places] for i in range(2)] == [True, True]
        assert (len(set(first)), len(set(second)), set(first) & set(second)) == (places, places, set())
        assert not set(engine.released) & {*first, *second}
    assert engine.captured == {}


def test_verified_through_graphs(pair: tuple[OrtRunner, OrtRunner]) -> None:
    runner, _ = pair
    assert all(check.passed for check in verify(runner, read_reference(runner.bundle)))


def test_caches_that_move_are_captured_again(exported: Exported, fake_cuda: FakeOrt) -> None:
    bundle = runnable(exported("llama", target="ort", logits="last"))
    with OrtRunner(bundle, device="cuda", threads=1) as runner:
        engine: Any = runner.engine
        with runner.session(2, 7) as session, runner.session(2, 20) as roomy:
            engine.released.clear()
            for given in (session, roomy):
                given.step(tokens(2))
                given.prefill(tokens(2, 5), lens(1, 4))
                given.prefill(tokens(2, 5, seed=1), lens(3, 1))
            np.testing.assert_allclose(session.step(tokens(2)), roomy.step(tokens(2)), **CLOSE)
            assert len(engine.released) == 1 and engine.released[0] not in engine.captured


def test_only_what_changed_is_brought_to_the_device(exported: Exported, plugins: None, fake_cuda: FakeOrt) -> None:
    bundle = exported("mamba", target="portable", logits="last")
    with OrtRunner(bundle, device="cuda", threads=1) as runner, runner.session(1) as session:
        session.step(np.array([1]))
        DeviceValue.uploads = 0
        for token in (1, 1, 2, 3):
            session.step(np.array([token]))
        assert DeviceValue.uploads == 2


class FakeCudart:
    """Copies within the host's memory; ``code``: what it answers."""

    code = 0

    def cudaMemcpy(self, to: Any, source: Any, size: Any, kind: int) -> int:  # noqa: N802
        assert kind == device_copy.ANY_WAY
        ctypes.memmove(to, source, size.value)
        return self.code

    def cudaStreamSynchronize(self, stream: None) -> int:  # noqa: N802
        return 0


def moved_rows(runner: OrtRunner) -> list[NDArray[Any]]:
    """A sequence that goes from one session to another directly, and one by way of the host."""
    with runner.session(3, CAPACITY) as a, runner.session(2, 12) as b:
        a.prefill(tokens(3, 6), lens(6, 3, 5))
        b.prefill(tokens(2, 4, seed=1), lens(2, 4))
        b.copy_rows(0, a, 1)
        a.write_row(2, b.read_row(1))
        return [b.step(tokens(2)), a.step(tokens(3)), *b.read_states().values(), *a.read_states().values()]


def test_a_sequence_is_copied_by_itself(pair: tuple[OrtRunner, OrtRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    runner, _ = pair
    expected = moved_rows(runner)
    monkeypatch.setattr(device_copy, "runtime", FakeCudart)
    DeviceValue.uploads = 0
    for ours, theirs in zip(moved_rows(runner), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert DeviceValue.uploads == 0
    monkeypatch.setattr(FakeCudart, "code", 2)
    with pytest.raises(UserError, match="CUDA failed in cudaMemcpy: error 2"):
        moved_rows(runner)


def test_logits_that_stay_on_the_device_are_waited_for(
    exported: Exported, plugins: None, fake_cuda: FakeOrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of bfloat16 do, which NumPy lacks; the graph here is float32, and only its manifest says otherwise."""
    monkeypatch.setattr(graph_interface, "difference", lambda *about: None)
    bundle = exported("mamba", target="portable", logits="last")
    said = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, dtype="bfloat16"))
    runners = [OrtRunner(each, device="cuda", threads=1) for each in (said, bundle)]
    with runners[0] as ours, runners[1] as theirs, ours.session(2) as a, theirs.session(2) as b:
        for given in (tokens(2, 5), tokens(2, 3, seed=1)):
            np.testing.assert_array_equal(a.prefill(given), b.prefill(given))


@pytest.mark.parametrize("refuse", ["open", "run"])
def test_where_nothing_can_be_captured_decode_runs_without(
    exported: Exported, plugins: None, fake_cuda: FakeOrt, refuse: str
) -> None:
    fake_cuda.refuse = refuse
    bundle = exported("jamba", target="portable", logits="last")
    runner = OrtRunner(bundle, device="cuda", threads=1)
    with runner, OrtRunner(bundle, device="cuda", threads=1, cuda_graphs=False) as plain:
        said = {"open": "cannot use the graph capture feature", "run": "an op waits for the device"}[refuse]
        assert "CUDAExecutionProvider" in runner.description
        assert said in runner.description.split("decode without a CUDA graph (")[1]
        assert "\n" not in runner.description
        for ours, theirs in zip(mixed(runner), mixed(plain), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert set(fake_cuda.sessions[-1].runs) == {None}


def test_function_bodies_are_not_captured(exported: Exported, fake_cuda: FakeOrt) -> None:
    bundle = exported("mamba", target="portable", logits="last")
    with OrtRunner(bundle, device="cuda", plugins=False) as runner:
        assert runner.description.endswith("decode without a CUDA graph (our ops run as function bodies)")
        assert [session.graphs for session in fake_cuda.sessions] == [False]


def test_what_needs_no_function_bodies_is_captured_without_plugins(exported: Exported, fake_cuda: FakeOrt) -> None:
    bundle = runnable(exported("llama", target="ort", logits="last"))
    with OrtRunner(bundle, device="cuda", plugins=False) as runner:
        assert runner.description.endswith("decode as a CUDA graph")


def test_a_fall_back_to_the_cpu_is_an_error(
    exported: Exported, fake_cuda: FakeOrt, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_cuda.lost, fake_cuda.missing = True, "Failed to load libcublas.so.13: no such file\nand more"
    with pytest.raises(
        UserError, match=r"on CPUExecutionProvider: expected CUDAExecutionProvider.*libcublas"
    ) as refused:
        OrtRunner(exported("llama", target="portable", logits="last"), device="cuda")
    assert "\n" not in str(refused.value) and str(refused.value).endswith("or use `device='cpu'`")
    assert capsys.readouterr().out == ""


def test_libraries_are_loaded_once(exported: Exported, fake_cuda: FakeOrt) -> None:
    bundle = exported("llama", target="portable", logits="last")
    for _ in range(2):
        OrtRunner(bundle, device="cuda").close()
    assert fake_cuda.preloads == 1


def test_a_bfloat16_state_is_bound_read_and_written() -> None:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Cast", ["x"], ["f"], to=1), helper.make_node("Add", ["f", "f"], ["s"])]
    nodes.append(helper.make_node("Cast", ["s"], ["y"], to=16))
    infos = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, ["n", 3]) for name in "xy"]
    graph = helper.make_graph(nodes, "double", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = np.array([[1, 2.5, -3], [0.1, 1e30, 4]], np.float32)
    x = Tensor.of(stored_zeros((2, 3), "bfloat16"), "bfloat16", "cpu")
    y, binding = Tensor.empty((2, 3), "bfloat16", "cpu"), session.io_binding()
    x.bind_input(binding, "x")
    y.bind_output(binding, "y")
    for scale in (1, 2):
        x.write(stored_zeros((2, 3), "bfloat16", given * scale))
        np.testing.assert_allclose(x.read(), given * scale, rtol=2**-8)
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(y.read(), 2 * x.read())


def test_an_onnx_runtime_without_bfloat16_says_so(
    exported: Exported, fake_cuda: FakeOrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "has_bfloat16", lambda: False)
    with pytest.raises(UserError, match=r"is bfloat16, which ONNX Runtime takes from Python since 1\.20"):
        OrtRunner(exported("mamba", target="portable", dtype="bfloat16", logits="last"), device="cuda")


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's CUDA provider and the library of our ops, compiled for it."""
    what = "tests of ONNX Runtime on CUDA left out:"
    if cuda.PROVIDER not in ort.get_available_providers() or not torch.cuda.is_available():
        leave_out(f"{what} no CUDA device, or no onnxruntime-gpu")
    if library.find("onnxruntime") is None:
        native = request.getfixturevalue("native_library")("onnxruntime")
        monkeypatch.setenv("SEQEXPORT_PLUGINS", str(native.parent))
    if not library.require("onnxruntime").built_for.get("cuda"):
        leave_out(f"{what} {library.FILES['onnxruntime']} was built without CUDA")


def decoded(runner: OrtRunner, steps: int = 50) -> list[NDArray[Any]]:
    given = tokens(2, 30 + steps, vocab=runner.manifest.vocab_size)
    with runner.session(2, 100) as session:
        logits = [session.prefill(given[:, :30], lens(30, 17))]
        logits += [session.step(given[:, 30 + step]) for step in range(steps)]
        return [*logits, *session.read_states().values()]


@pytest.mark.parametrize("model", SHIPPED)
@pytest.mark.parametrize("target", ["portable", "tensorrt"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_shipped_models_on_a_gpu(exported: Exported, gpu: None, model: str, target: str, dtype: str) -> None:
    bundle = exported(model, target=target, dtype=dtype, logits="all")
    try:
        runner = OrtRunner(bundle, device="cuda")
    except UserError as error:
        if dtype == "bfloat16" and "NOT_IMPLEMENTED" in str(error):
            leave_out(f"bfloat16 on ONNX Runtime's CUDA provider left out: {error.__cause__}")
        raise
    with runner:
        assert f"ops by {library.FILES['onnxruntime']}" in runner.description
        assert runner.description.endswith("decode as a CUDA graph"), runner.description
        worse = [check for check in verify(runner, read_reference(bundle)) if not check.passed]
        assert worse == []


@pytest.mark.parametrize("model", SHIPPED)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_decode_on_a_gpu_repeats_itself(exported: Exported, gpu: None, model: str, dtype: str) -> None:
    bundle = exported(model, target="portable", dtype=dtype, logits="last")
    close = CLOSE if dtype == "float32" else {"rtol": 2e-2, "atol": 2e-2}
    with OrtRunner(bundle, device="cuda") as graphs, OrtRunner(bundle, device="cuda", cuda_graphs=False) as plain:
        first, again, other = decoded(graphs), decoded(graphs), decoded(plain)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, **close)


@pytest.mark.parametrize("model", SHIPPED)
def test_sessions_on_a_gpu_do_not_disturb_each_other(exported: Exported, gpu: None, model: str) -> None:
    bundle = exported(model, target="portable", dtype="float32", logits="last")
    with OrtRunner(bundle, device="cuda") as cuda, OrtRunner(bundle, threads=2) as cpu:
        for ours, theirs in zip(mixed(cuda), mixed(cpu), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", SHIPPED)
def test_sequences_on_a_gpu_are_copied_by_themselves(
    exported: Exported, gpu: None, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = exported(model, target="portable", dtype="float32", logits="last")
    with OrtRunner(bundle, device="cuda") as runner:
        assert device_copy.runtime() is not None
        found = moved_rows(runner)
        monkeypatch.setattr(device_copy, "runtime", lambda: None)
        for ours, theirs in zip(found, moved_rows(runner), strict=True):
            np.testing.assert_array_equal(ours, theirs)
