"""Verification from the recorded reference, and thousands of decode steps against the float64 original."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save
from transformers import PreTrainedModel

from seqexport.exporter.models import windows
from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner, Session, States
from seqexport.runtimes.bundle import MODEL, REFERENCE, Bundle, open_bundle
from seqexport.runtimes.comparison import late
from seqexport.runtimes.comparison.reference import (
    Reference,
    read_reference,
    record,
    relative_error,
    write_reference,
)
from seqexport.runtimes.comparison.verify import CHUNKS, LATE_CHUNKS, verify
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.pytorch.runner import TorchRunner
from tests.conftest import Exported
from tests.runtimes.ort_attention import runnable
from tests.runtimes.references import checks_of
from tests.runtimes.tiny import bundle_of, make
from tests.sealing import reseal

STEPS, CHECKPOINTS = 2000, (250, 500, 1000, 1500, 2000)


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Bundle:
    bundle = runnable(exported("llama", target="ort", logits="last"))
    return open_bundle(shutil.copytree(bundle.path, tmp_path / "bundle"))


@pytest.mark.parametrize("target", ["portable", "ort"])
@pytest.mark.parametrize("name", ["mamba", "llama", "jamba", "irregular"])
def test_exports_hold_their_bounds(exported: Exported, name: str, target: str) -> None:
    bundle = runnable(exported(name, target=target, logits="last"))
    checks = checks_of(bundle)
    assert [check for check in checks if not check.passed] == []
    kinds = {check.name.split(",")[0] for check in checks}
    assert {"logits after prefill", "logits along decode"} < kinds
    grows = bundle.manifest.capacity is not None
    assert len(checks) == len(kinds) * (len(CHUNKS) + grows * len(LATE_CHUNKS))


def test_longrope_writes_its_own_frequencies_back_and_is_recorded(exported: Exported) -> None:
    assert all(check.passed for check in checks_of(exported("phi3_longrope", target="portable", logits="all")))


def test_a_cache_shorter_than_the_recorded_steps_is_verified(exported: Exported) -> None:
    bundle = runnable(exported("llama", target="ort", logits="last", max_len=4))
    assert bundle.manifest.capacity == 4
    assert all(check.passed for check in checks_of(bundle))


def test_a_changed_weight_is_out_of_bounds(copy: Bundle) -> None:
    data = copy.path / f"{MODEL}.data"
    weights = np.fromfile(data, np.float32)
    weights[len(weights) // 2 :] *= 1.0001
    weights.tofile(data)
    failed = [check for check in checks_of(reseal(copy.path)) if not check.passed]
    assert {"logits after prefill, prefill whole", "logits along decode, prefill in chunks of 1"} <= {
        check.name for check in failed
    }
    assert all(check.error > check.allowed for check in failed)


def test_an_answer_that_is_not_finite_is_out_of_bounds(copy: Bundle) -> None:
    data = copy.path / f"{MODEL}.data"
    weights = np.fromfile(data, np.float32)
    weights[-1] = np.nan
    weights.tofile(data)
    checks = checks_of(reseal(copy.path))
    assert not any(check.passed for check in checks if check.not_finite)
    broken = next(check for check in checks if check.not_finite)
    assert broken.error is None
    assert re.fullmatch(r"prefill\.logits: [0-9]+ of 74 values \(NaN\)", str(broken.not_finite))


def test_a_graph_with_another_interface_is_named(copy: Bundle) -> None:
    model = ir.load(copy.model)
    model.graph.inputs[0].name = "tokens"
    ir.save(model, copy.model, external_data=f"{MODEL}.data")
    with pytest.raises(UserError, match=r"is not the graph that .*: its inputs are not those listed \(input_ids\)"):
        OrtRunner(reseal(copy.path))


WINDOWED, WIDE = 40, 64


def recorded(name: str, **changes: Any) -> tuple[Bundle, Reference]:
    """A tiny original that holds 64 tokens, and its recorded reference."""
    model = make(name, **changes)
    bundle = bundle_of(model, logits="all", capacity=WIDE)
    float64 = TorchRunner(bundle, model, arithmetic="float64")
    return bundle, record(TorchRunner(bundle, model), float64, windows(model))


def failures(bundle: Bundle, reference: Reference, model: PreTrainedModel) -> set[str]:
    """Where another model's answers are out of bounds: after the comma of a check's name."""
    failed = [check for check in verify(TorchRunner(bundle, model), reference) if not check.passed]
    return {check.name.partition(", from ")[2] for check in failed}


@pytest.mark.parametrize("wrong", [WINDOWED - 1, WINDOWED + 1, 4096])
def test_a_window_longer_than_the_recorded_text_is_outgrown(wrong: int) -> None:
    bundle, reference = recorded("gemma2", sliding_window=WINDOWED)
    assert reference.windows == (WINDOWED,)
    assert [case.start for case in reference.late or ()] == [36, 56]
    assert failures(bundle, reference, make("gemma2", sliding_window=WINDOWED)) == set()
    assert "position 36" in failures(bundle, reference, make("gemma2", sliding_window=wrong))


def test_positions_late_in_the_capacity_are_checked() -> None:
    bundle, reference = recorded("llama")
    wrong = make("llama")
    rotary = wrong.model.rotary_emb
    true = rotary.forward
    rotary.forward = lambda x, position_ids: true(x, position_ids.clamp(max=40))
    assert failures(bundle, reference, make("llama")) == set()
    assert failures(bundle, reference, wrong) == {"position 56"}


def test_made_up_caches_are_the_same_everywhere_and_exact_in_their_dtype() -> None:
    bundle = bundle_of(make("gemma2", torch.bfloat16), capacity=WIDE)
    like = {spec.past_name: np.full(spec.sizes(1, 2), 3.0) for spec in bundle.manifest.states}
    made = late.made_up(bundle.manifest, like, WIDE)
    first = made["past_key_values.0.key"]
    assert first.shape == (1, 2, WIDE, 8)
    np.testing.assert_array_equal(first[0, 0, 0, :3], np.float32([5.28125, 1.203125, 2.9375]))
    assert np.square(first).mean() == pytest.approx(9, rel=0.2)
    for state in made.values():
        np.testing.assert_array_equal(state, torch.from_numpy(state).bfloat16().float())
    assert not np.array_equal(first, made["past_key_values.1.key"])
    assert not np.array_equal(first, made["past_key_values.0.value"])


@pytest.mark.parametrize(
    ("capacity", "windows", "expected"),
    [
        (64, (), [56]),
        (64, (40,), [36, 56]),
        (64, (6, 40, 100), [36, 56]),
        (24, (), []),
        (25, (), [17]),
        (None, (), []),
        (10**7, (4096,), [4092, (3 << 28) // 384 - 8]),
    ],
)
def test_late_texts_begin_where_something_new_is_met(
    capacity: int | None, windows: tuple[int, ...], expected: list[int]
) -> None:
    manifest = bundle_of(make("llama")).manifest  # 384 bytes a token
    states = manifest.states if capacity else ()  # what grows has a capacity
    manifest = msgspec.structs.replace(manifest, capacity=capacity, states=states)
    assert list(late.starts(manifest, windows, read=24, length=8)) == expected


def test_what_no_text_reaches_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "MOST_BYTES", 32 * 384)
    bundle, reference = recorded("gemma2", sliding_window=WINDOWED)
    said: list[str] = []
    assert all(
        check.passed
        for check in verify(TorchRunner(bundle, make("gemma2", sliding_window=WINDOWED)), reference, said.append)
    )
    assert said == ["the sliding window of 40 tokens: 32 were in the cache", "positions from 32 to 63"]


def test_a_runner_that_holds_fewer_tokens_leaves_late_positions_open() -> None:
    class Small(TorchRunner):
        def session(self, batch: int = 1, capacity: int | None = None) -> Session:
            if capacity == WIDE:
                raise UserError("capacity of 64 tokens: the engine's caches hold 40")
            return super().session(batch, capacity)

    bundle, reference = recorded("llama")
    said: list[str] = []
    assert all(check.passed for check in verify(Small(bundle, make("llama")), reference, said.append))
    assert said == [
        "the text from position 56 on: capacity of 64 tokens: the engine's caches hold 40",
        "positions from 24 to 63",
    ]


def test_a_reference_of_an_older_seqexport_is_read_and_what_it_lacks_is_said(tmp_path: Path) -> None:
    bundle, reference = recorded("llama")
    file = tmp_path / REFERENCE
    write_reference(file, reference)
    again = read_reference(Bundle(tmp_path, bundle.manifest))
    assert [case.start for case in again.late or ()] == [56]
    with safe_open(file, "numpy") as opened:
        errors = opened.metadata()["torch_errors"]
    old = {name: x for name, x in load_file(file).items() if not name.startswith("late")}
    file.write_bytes(save(old, metadata={"torch_errors": errors}))
    said: list[str] = []
    assert all(
        check.passed
        for check in verify(
            TorchRunner(bundle, make("llama")), read_reference(Bundle(tmp_path, bundle.manifest)), said.append
        )
    )
    assert said == [
        "sliding windows and late positions: an older seqexport recorded the reference; export the model again"
    ]


def poison(model: PreTrainedModel, value: float) -> PreTrainedModel:
    with torch.no_grad():
        for projection in (model.model.layers[1].mlp.up_proj, model.model.layers[1].mlp.down_proj):
            projection.weight.mul_(value)
    return model


@pytest.mark.parametrize(
    ("dtype", "factor", "message"),
    [
        (torch.float16, 3e3, r"^past_key_values\.2\.key of PyTorch's own run in float16 is not finite: .* of .* values "
         r"\(.*NaN.*\); export in bf16 or fp32"),
        (torch.float32, float("nan"), r"^past_key_values\.2\.key of the original is not finite even in float64: 384 of "
         r"384 values \(NaN\)"),
    ],
)  # fmt: skip
def test_an_original_that_is_not_finite_is_not_recorded(dtype: torch.dtype, factor: float, message: str) -> None:
    model = poison(make("llama", dtype), factor)
    bundle = bundle_of(model, logits="all", capacity=WIDE)
    with pytest.raises(UserError, match=message):
        record(TorchRunner(bundle, model), TorchRunner(bundle, model, arithmetic="float64"))


class Truth:
    """A shipped model's float64 answers on random tokens, and how far PyTorch itself is from them."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.tokens = np.random.default_rng(0).integers(0, bundle.manifest.vocab_size, STEPS)
        float64 = TorchRunner(bundle, self._model(), arithmetic="float64", logits="all")
        self.states: dict[int, States] = {}
        for length in CHECKPOINTS:
            with float64.session() as session:
                self.logits = session.prefill(self.tokens[None, :length])[0]
                self.states[length] = session.read_states()
        self._own: dict[str, dict[str, float]] = {}

    def _model(self) -> PreTrainedModel:
        return load_original(self.bundle.manifest.source.model.replace("preset:", PRESETS), dtype="float32")

    def own(self, device: str) -> dict[str, float]:
        """PyTorch's own errors on ``device`` in float32, without TF32: the larger of token by token and all at once.

        They differ by how a matrix product adds up. One row at a time, a sum of products is many partial sums; with
        many rows it is one long chain, as it always is in ONNX Runtime. The conv state of the first layer, before
        which there is none of our ops, has 1.1e-7 the one way and 2.0e-7 the other, and 2.0e-7 in ONNX Runtime.
        """
        if device not in self._own:
            assert torch.get_float32_matmul_precision() == "highest"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.backends.cudnn, "allow_tf32", False)
                native = TorchRunner(self.bundle, self._model(), device=device, logits="all")
                ways = self.errors(native, 1), self.errors(native, STEPS)
            self._own[device] = {name: max(way[name] for way in ways) for name in ways[0]}
        return self._own[device]

    def check(self, runner: Runner, chunk: int, device: str) -> None:
        """No error of the runner, on chunks of so many tokens, is above twice PyTorch's own on the same device."""
        ours, own = self.errors(runner, chunk), self.own(device)
        assert ours.keys() == own.keys()
        assert {name: (error, own[name]) for name, error in ours.items() if not error <= 2 * own[name]} == {}

    def errors(self, runner: Runner, chunk: int) -> dict[str, float]:
        """Relative errors of the logits up to each checkpoint from the one before, and of every layer's states.

        A state's is the root mean square over the checkpoints: of one layer after one token it may be twice as large
        as after the next, in PyTorch as in ONNX Runtime, and not of the same token. A checkpoint ends a chunk; chunks
        of ``STEPS`` are all tokens before a checkpoint in one call.
        """
        found: dict[str, list[float]] = defaultdict(list)
        if chunk == STEPS:
            for length in CHECKPOINTS:
                with runner.session(1, STEPS) as session:
                    logits = session.prefill(self.tokens[None, :length])[0]
                    self._compare(session, length, found)
            return self._summed(found, logits)
        ends = sorted({*range(chunk, STEPS, chunk), *CHECKPOINTS})
        with runner.session(1, STEPS) as session:
            rows: list[NDArray[np.float32]] = []
            for start, end in zip([0, *ends], ends, strict=False):
                rows += list(session.prefill(self.tokens[None, start:end])[0])
                if end in CHECKPOINTS:
                    self._compare(session, end, found)
        return self._summed(found, np.stack(rows))

    def _compare(self, session: Session, length: int, found: dict[str, list[float]]) -> None:
        for name, state in session.read_states().items():
            found[name].append(relative_error(state, self.states[length][name]))

    def _summed(self, found: dict[str, list[float]], logits: NDArray[np.float32]) -> dict[str, float]:
        assert all(len(errors) == len(CHECKPOINTS) for errors in found.values())
        for start, end in zip([0, *CHECKPOINTS], CHECKPOINTS, strict=False):
            found[f"logits {start} to {end}"] = [relative_error(logits[start:end], self.logits[start:end])]
        return {name: float(np.sqrt(np.mean(np.square(errors)))) for name, errors in found.items()}


PRESETS = str(Path(__file__).parents[2] / "exporter" / "presets") + "/"


@pytest.fixture(scope="module", params=["mamba", "mamba2", "transformer", "hybrid"])
def truth(request: pytest.FixtureRequest, exported: Exported) -> tuple[str, Truth]:
    name = f"preset:{request.param}"
    return name, Truth(exported(name, target="portable", dtype="float32", logits="all"))


@pytest.mark.parametrize("target", ["portable", "ort"])
@pytest.mark.parametrize("chunk", [1, 7, 64, STEPS])
def test_2000_tokens_stay_as_accurate_as_pytorch(
    exported: Exported, truth: tuple[str, Truth], target: str, chunk: int
) -> None:
    name, true = truth
    bundle = runnable(exported(name, target=target, dtype="float32", logits="all"))
    with OrtRunner(bundle, threads=2) as runner:
        true.check(runner, chunk, "cpu")


@pytest.mark.parametrize("start", [-1, 10**12, 2**62])
def test_late_texts_that_no_cache_holds(tmp_path: Path, start: int) -> None:
    bundle, reference = recorded("llama")
    moved = replace(reference.late[0], start=start)  # type: ignore[index]
    write_reference(tmp_path / REFERENCE, replace(reference, late=(moved,)))
    with pytest.raises(UserError, match=r"is damaged .*a text ends at"):
        read_reference(Bundle(tmp_path, bundle.manifest))
